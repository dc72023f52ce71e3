// The threads that are kept and the memory that is kept.
#include "pixel_fixtures.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <new>
#include <numeric>
#include <set>
#include <stdexcept>
#include <thread>

#include <csignal>
#include <sys/wait.h>
#include <unistd.h>

#include "pixels/buffer_pool.h"
#include "pixels/memory_floor.h"
#include "pixels/thread_pool.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MAXCROPS_UNDER_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MAXCROPS_UNDER_SANITIZER 1
#endif
#endif

namespace maxcrops_test {
namespace {

// -- threads -------------------------------------------------------------------------------------------------------

bool runs_each_index_once(int64_t count, int threads) {
    std::vector<std::atomic<int>> runs(static_cast<size_t>(std::max<int64_t>(count, 0)));
    parallel_for(count, threads, [&](int64_t i) {
        runs.at(static_cast<size_t>(i)).fetch_add(1);
        if (i % 8 == 0) std::this_thread::yield();  // gives helpers the time to come
    });
    return std::all_of(runs.begin(), runs.end(), [](const std::atomic<int>& n) { return n.load() == 1; });
}

TEST(ParallelFor, RunsEachIndexOnce) {
    for (const int64_t count : {-1, 0, 1, 2, 3, 7, 64, 1000}) {
        for (const int threads : {-1, 0, 1, 2, 3, 5, 9}) {
            for (int repeat = 0; repeat < 20; ++repeat) EXPECT_TRUE(runs_each_index_once(count, threads)) << count;
        }
    }
}

TEST(ParallelFor, ShowsTheCallerWhatItsThreadsWrote) {
    std::vector<int64_t> squares(20000);  // not atomic: the thread sanitizer would see a missing order
    for (int repeat = 0; repeat < 20; ++repeat) {
        parallel_for(20000, 4, [&](int64_t i) { squares[static_cast<size_t>(i)] += i * i; });
    }
    for (int64_t i = 0; i < 20000; ++i) ASSERT_EQ(squares[static_cast<size_t>(i)], 20 * i * i);
}

// Whether so many threads run at once: each waits for all of them.
bool threads_meet(int threads) {
    std::atomic<int> started{0}, met{0};
    parallel_for(threads, threads, [&](int64_t) {
        started.fetch_add(1);
        for (int i = 0; i < 5000 && started.load() < threads; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        met.fetch_add(started.load() == threads);
    });
    return met.load() == threads;
}

TEST(ParallelFor, RunsOnAsManyThreadsAsAsked) {
    for (const int threads : {2, 3, 6}) EXPECT_TRUE(threads_meet(threads)) << threads;
}

TEST(ParallelFor, UsesAtMostTheThreadsAskedFor) {
    runs_each_index_once(1000, 8);  // there are more, from now on
    for (const int threads : {1, 2, 3}) {
        std::mutex mutex;
        std::set<std::thread::id> ids;
        parallel_for(200, threads, [&](int64_t) {
            std::this_thread::sleep_for(std::chrono::microseconds(50));
            const std::lock_guard<std::mutex> lock(mutex);
            ids.insert(std::this_thread::get_id());
        });
        EXPECT_LE(ids.size(), static_cast<size_t>(threads));
    }
}

TEST(ParallelFor, ThrowsWhatATaskThrewAndWorksAfterwards) {
    for (const int threads : {1, 2, 5}) {
        for (const int64_t bad : {0, 1, 50, 99}) {
            try {
                parallel_for(100, threads, [&](int64_t i) {
                    if (i == bad) throw std::out_of_range("at " + std::to_string(i));
                });
                FAIL() << "nothing was thrown";
            } catch (const std::out_of_range& error) {
                EXPECT_EQ(error.what(), "at " + std::to_string(bad));
            }
            EXPECT_THROW(parallel_for(100, threads, [](int64_t i) { throw i; }), int64_t);
            EXPECT_TRUE(runs_each_index_once(100, threads));
        }
    }
}

TEST(ParallelFor, StartsNoTaskBehindAnException) {
    for (const int threads : {1, 3}) {
        std::atomic<int> runs{0};
        const auto task = [&](int64_t i) {
            if (i == 0) throw i;
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            runs.fetch_add(1);
        };
        EXPECT_THROW(parallel_for(1000, threads, task), int64_t);
        EXPECT_LT(runs.load(), 999);
    }
}

TEST(ParallelFor, MayBeNested) {
    std::atomic<int> runs{0};
    for (int repeat = 0; repeat < 50; ++repeat) {
        parallel_for(4, 4, [&](int64_t) {
            parallel_for(3, 3, [&](int64_t) { parallel_for(2, 2, [&](int64_t) { runs.fetch_add(1); }); });
        });
    }
    EXPECT_EQ(runs.load(), 50 * 4 * 3 * 2);
}

TEST(ParallelFor, MayBeCalledFromManyThreads) {
    std::vector<std::thread> callers;
    std::atomic<int> good{0};
    for (int t = 0; t < 8; ++t) {
        callers.emplace_back([&, t] {
            for (int i = 0; i < 100; ++i) {
                if (i % 10 == 3) {
                    try {
                        parallel_for(9, 1 + t % 4, [](int64_t j) { if (j == 5) throw 1; });
                    } catch (int) {
                        good.fetch_add(1);
                    }
                } else {
                    good.fetch_add(runs_each_index_once(i, 1 + t % 4));
                }
            }
        });
    }
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(good.load(), 800);
}

// Exit status of a child of a fork that does `action`; -1 if it has not ended within 20 s.
int status_of_child(const std::function<bool()>& action) {
    const pid_t child = fork();
    if (child == 0) _exit(action() ? 0 : 1);
    for (int i = 0; i < 2000; ++i) {
        int status = 0;
        if (waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    return -1;
}

#if defined(__SANITIZE_THREAD__)
#define MAXCROPS_SKIP_FORKS() GTEST_SKIP() << "the thread sanitizer ends children that start threads"
#else
#define MAXCROPS_SKIP_FORKS() static_cast<void>(0)
#endif

TEST(Fork, AChildStartsThreadsOfItsOwn) {
    MAXCROPS_SKIP_FORKS();
    ASSERT_TRUE(threads_meet(4));
    // Threads have met last: one that still starts when its process forks may hold a lock of the address sanitizer.
    const auto works = [] { return threads_meet(4) && runs_each_index_once(100, 9) && threads_meet(9); };
    EXPECT_EQ(status_of_child(works), 0);
    EXPECT_EQ(status_of_child([&] { return works() && status_of_child(works) == 0; }), 0);  // and its child
    EXPECT_TRUE(works());
}

TEST(Fork, AChildPreprocesses) {
    MAXCROPS_SKIP_FORKS();
    const Size size{97, 131};
    const Spec spec = pixel_spec({14, 5, 1, 1});
    const Layout layout = make_layout(spec, knob_of(spec), size);
    const Bytes pixels = random_pixels(1, size);
    for (const Resize resize : kAllResizes) {
        const Preprocessor preprocessor(clip_rule(resize), PixelType::kBFloat16);
        const auto run = [&] { return run_one(preprocessor, packed_view(pixels.data(), size), layout, 3, active_isa()); };
        const Bytes expected = run();
        EXPECT_EQ(status_of_child([&] { return run() == expected; }), 0);
    }
}

TEST(Fork, AChildMayLeaveBusyThreadsBehind) {
#if defined(MAXCROPS_UNDER_SANITIZER)
    GTEST_SKIP() << "a sanitizer's own locks do not survive a fork beside busy threads";
#endif
    std::atomic<bool> stop{false};
    std::vector<std::thread> busy;
    for (int t = 0; t < 3; ++t) {
        busy.emplace_back([&] {
            while (!stop.load()) parallel_for(4, 3, [](int64_t) {});
        });
    }
    for (int i = 0; i < 20; ++i) EXPECT_EQ(status_of_child([] { return runs_each_index_once(50, 3); }), 0);
    stop.store(true);
    for (std::thread& thread : busy) thread.join();
}

// -- buffers -------------------------------------------------------------------------------------------------------

constexpr int64_t kMegabyte = int64_t{1} << 20;

TEST(BufferPool, AlignsAndGivesWhatIsAskedFor) {
    const auto pool = std::make_shared<BufferPool>(64 * kMegabyte);
    for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{63}, int64_t{4096}, int64_t{4097}, kMegabyte + 5,
                                2 * kMegabyte, 2 * kMegabyte + 1, 5 * kMegabyte}) {
        const std::shared_ptr<uint8_t> block = pool->acquire(bytes);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(block.get()) % (bytes >= 2 * kMegabyte ? 2 * kMegabyte : 64), 0u) << bytes;
        std::memset(block.get(), 7, static_cast<size_t>(bytes));
    }
}

TEST(BufferPool, ReusesTheSmallestBlockThatHolds) {
    const auto pool = std::make_shared<BufferPool>(64 * kMegabyte);
    std::shared_ptr<uint8_t> small = pool->acquire(3 * kMegabyte), large = pool->acquire(6 * kMegabyte);
    const uint8_t *small_at = small.get(), *large_at = large.get();
    EXPECT_EQ(pool->held_bytes(), 0);
    std::shared_ptr<uint8_t> copy = small;
    small.reset();
    EXPECT_EQ(pool->held_bytes(), 0);  // the copy still has it
    copy.reset();
    large.reset();
    EXPECT_EQ(pool->held_bytes(), 10 * kMegabyte);  // whole huge pages
    const auto one = pool->acquire(3 * kMegabyte), other = pool->acquire(5 * kMegabyte);
    EXPECT_EQ(one.get(), small_at);
    EXPECT_EQ(other.get(), large_at);
    EXPECT_EQ(pool->held_bytes(), 0);
}

TEST(BufferPool, DoesNotSpendALargeBlockOnASmallRequest) {
    const auto pool = std::make_shared<BufferPool>(64 * kMegabyte);
    pool->acquire(32 * kMegabyte);
    const auto small = pool->acquire(100);
    EXPECT_EQ(pool->held_bytes(), 32 * kMegabyte);
}

TEST(BufferPool, HoldsNoMoreThanItsCapacity) {
    for (const int64_t capacity : {int64_t{0}, 5 * kMegabyte, 100 * kMegabyte}) {
        const auto pool = std::make_shared<BufferPool>(capacity);
        std::vector<std::shared_ptr<uint8_t>> blocks;
        for (int64_t i = 1; i <= 6; ++i) blocks.push_back(pool->acquire(i * kMegabyte));
        while (!blocks.empty()) {
            blocks.pop_back();
            EXPECT_LE(pool->held_bytes(), capacity);
        }
        EXPECT_EQ(pool->held_bytes() > 0, capacity > 0);
    }
}

TEST(BufferPool, BlocksOutliveTheirPool) {
    auto pool = std::make_shared<BufferPool>(64 * kMegabyte);
    const std::shared_ptr<uint8_t> small = pool->acquire(100), large = pool->acquire(3 * kMegabyte);
    pool->acquire(kMegabyte);  // one that waits when the pool ends
    pool.reset();
    std::memset(small.get(), 1, 100);
    std::memset(large.get(), 1, static_cast<size_t>(3 * kMegabyte));
}

TEST(BufferPool, GivesNoBlockToTwoOwnersAtOnce) {
    const auto pool = std::make_shared<BufferPool>(8 * kMegabyte);
    std::atomic<int> broken{0};
    std::vector<std::thread> users;
    for (uint8_t t = 0; t < 6; ++t) {
        users.emplace_back([&, t] {
            Random random(t);
            for (int i = 0; i < 300; ++i) {
                const auto bytes = static_cast<size_t>(random(1, 200000));
                const std::shared_ptr<uint8_t> block = pool->acquire(static_cast<int64_t>(bytes));
                std::memset(block.get(), t, bytes);
                std::this_thread::yield();
                broken.fetch_add(!std::all_of(block.get(), block.get() + bytes, [t](uint8_t byte) { return byte == t; }));
            }
        });
    }
    for (std::thread& user : users) user.join();
    EXPECT_EQ(broken.load(), 0);
    EXPECT_LE(pool->held_bytes(), 8 * kMegabyte);
}

TEST(BufferPool, ThrowsWhatNoMachineHas) {
#if defined(MAXCROPS_UNDER_SANITIZER)
    GTEST_SKIP() << "sanitizers end the process instead";
#endif
    const auto pool = std::make_shared<BufferPool>(kMegabyte);
    EXPECT_THROW(pool->acquire(int64_t{1} << 60), std::bad_alloc);
    EXPECT_NE(pool->acquire(100), nullptr);
}

TEST(MemoryFloor, FillsAllAndReadsAll) {
    for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{63}, int64_t{64}, int64_t{1000}, kMegabyte + 77}) {
        for (const int64_t misalignment : {0, 1, 15, 17}) {
            Guarded out(bytes, 0xA5, misalignment);
            const auto source = exact<uint8_t>(bytes);
            std::fill_n(source.get(), bytes, uint8_t{2});
            const uint64_t sum = memory_floor(out.data(), bytes, source.get(), bytes, 2);
            EXPECT_TRUE(out.intact() && out.content() == Bytes(static_cast<size_t>(bytes), 1));
            EXPECT_EQ(sum != 0, bytes > 0);
        }
    }
}

}  // namespace
}  // namespace maxcrops_test
