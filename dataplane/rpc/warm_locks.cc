#include "dataplane/rpc/warm_locks.h"

#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>

#include <thread>

namespace penstock::rpc {

void warm_locks() {
  absl::Mutex mutex;
  bool queues = false, done = false, never = false;
  std::thread first([&] {
    const absl::MutexLock lock(&mutex);
    queues = true;
    mutex.Await(absl::Condition(&done));
  });
  {
    // Who has the lock after `queues` has it from a thread that is in its queue: the next to wait joins a queue that is not
    // empty, which is what it takes.
    const absl::MutexLock lock(&mutex, absl::Condition(&queues));
    mutex.AwaitWithTimeout(absl::Condition(&never), absl::Microseconds(1));
    done = true;
  }
  first.join();
}

}  // namespace penstock::rpc
