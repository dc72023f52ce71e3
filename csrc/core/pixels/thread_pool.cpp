#include "thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
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
            keep_off_this_cpu();
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
            while (static_cast<int>(workers_.size()) < wanted) {
                std::thread worker([this] { serve(); });
                workers_.push_back(worker.native_handle());
                worker.detach();
                kept_off_ = -1;
            }
        } catch (const std::system_error&) {
        }
    }

    // A sleeping worker is often woken on the CPU that it last ran on. If the caller has come to run there meanwhile, it
    // waits for the scheduler's next balancing, some milliseconds, which is longer than most jobs take.
    void keep_off_this_cpu() {
#if defined(__linux__)
        constexpr size_t kFewWorkers = 16;  // a system call each
        cpu_set_t others;
        const int self = sched_getcpu();
        if (workers_.size() > kFewWorkers || self < 0 || self == kept_off_) return;
        if (sched_getaffinity(0, sizeof others, &others) != 0 || CPU_COUNT(&others) < 2) return;
        CPU_CLR(self, &others);
        for (const std::thread::native_handle_type worker : workers_) pthread_setaffinity_np(worker, sizeof others, &others);
        kept_off_ = self;
#endif
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
    std::vector<std::thread::native_handle_type> workers_;
    int kept_off_ = -1;  // the CPU that no worker may run on now
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
