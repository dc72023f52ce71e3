#include "thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace maxcrops {
namespace {

int64_t process_id() {
#if defined(__unix__) || defined(__APPLE__)
    return static_cast<int64_t>(getpid());
#else
    return 0;
#endif
}

struct Job {
    Job(const std::function<void(int64_t)>& run, int64_t times, int helpers)
        : task(run), count(times), helpers_wanted(helpers) {}

    const std::function<void(int64_t)>& task;
    int64_t count;
    std::atomic<int64_t> next{0};
    const int helpers_wanted;
    int helpers_active = 0;  // guarded by the pool's mutex, as the next
    std::exception_ptr error;

    // Takes indices until there are none; an exception leaves the rest undone.
    std::exception_ptr work() {
        try {
            for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
        } catch (...) {
            next.store(count, std::memory_order_relaxed);
            return std::current_exception();
        }
        return nullptr;
    }
};

class Pool {
public:
    const int64_t process = process_id();

    void run(Job& job) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            start_workers(job.helpers_wanted);
            jobs_.push_back(&job);
        }
        job.helpers_wanted == 1 ? wake_.notify_one() : wake_.notify_all();
        std::exception_ptr error = job.work();
        std::unique_lock<std::mutex> lock(mutex_);
        jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), &job), jobs_.end());
        done_.wait(lock, [&] { return job.helpers_active == 0; });
        if (!error) error = job.error;
        if (error) std::rethrow_exception(error);
    }

private:
    // As many as any caller has asked for; a call may get fewer when others are busy, or when none can be started.
    void start_workers(int wanted) {
        try {
            for (; num_workers_ < wanted; ++num_workers_) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
        }
    }

    [[noreturn]] void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return !jobs_.empty(); });
            Job& job = *jobs_.front();
            ++job.helpers_active;
            if (job.helpers_active >= job.helpers_wanted) jobs_.pop_front();
            lock.unlock();
            std::exception_ptr error = job.work();
            lock.lock();
            if (error && !job.error) job.error = error;
            // A job that has no indices left wants no more helpers.
            jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), &job), jobs_.end());
            if (--job.helpers_active == 0) done_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::deque<Job*> jobs_;
    int num_workers_ = 0;
};

// The child of a fork has none of its parent's threads, and perhaps a locked mutex: it leaves that pool alone. Pools
// are never destroyed, since threads wait in them when the process ends.
Pool& this_process_pool() {
    static std::atomic<Pool*> pool{nullptr};
    Pool* current = pool.load(std::memory_order_acquire);
    if (current != nullptr && current->process == process_id()) return *current;
    Pool* fresh = new Pool;
    if (pool.compare_exchange_strong(current, fresh, std::memory_order_acq_rel)) return *fresh;
    delete fresh;  // another thread of this process was first
    return *current;
}

}  // namespace

void parallel_for(int64_t count, int num_threads, const std::function<void(int64_t)>& task) {
    const auto helpers = static_cast<int>(std::min<int64_t>(num_threads, count) - 1);
    if (helpers < 1) {
        for (int64_t i = 0; i < count; ++i) task(i);
        return;
    }
    Job job(task, count, helpers);
    this_process_pool().run(job);
}

}  // namespace maxcrops
