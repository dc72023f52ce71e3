// Work in parts on threads that are started for it.
#pragma once

#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace maxcrops {

// Calls work(part) for 0..parts - 1, each on a thread of its own and the first on the caller's, and rethrows the error of
// the first part that failed.
template <typename Work>
void for_parts(int64_t parts, const Work& work) {
    if (parts <= 1) return work(int64_t{0});
    std::vector<std::exception_ptr> errors(static_cast<size_t>(parts));
    const auto run = [&](int64_t part) {
        try {
            work(part);
        } catch (...) {
            errors[static_cast<size_t>(part)] = std::current_exception();
        }
    };
    std::vector<std::thread> threads;
    threads.reserve(static_cast<size_t>(parts));
    for (int64_t part = 1; part < parts; ++part) {
        try {
            threads.emplace_back(run, part);
        } catch (const std::system_error&) {
            run(part);  // no thread to be had
        }
    }
    run(0);
    for (std::thread& thread : threads) thread.join();
    for (const std::exception_ptr& error : errors) {
        if (error) std::rethrow_exception(error);
    }
}

}  // namespace maxcrops
