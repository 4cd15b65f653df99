// What gRPC's locks do only once, done before anybody waits for it.
//
// The first thread that ever has to queue behind another for a lock of Abseil's, gRPC's, reads its scheduling priority and
// the frequency of the processor's clock, to know when to read the priority again. Where the kernel does not tell that
// frequency (Linux does not) it is measured: sleeps of 1, 2, 4 ... 128 ms until two in turn agree within one per cent,
// 3 ms on a quiet machine and up to 255 ms on one that does not keep time. All that while the lock's queue is held, so
// that whoever wants the lock sleeps as well. Which message that meets is chance; it was somebody's first packet.
//
// Source: Abseil 20220623, base/internal/sysinfo.cc and synchronization/mutex.cc (Mutex::Enqueue).
#pragma once

#include <thread>

namespace penstock::rpc {

// Returns when it is done, mostly after 3 ms. Any thread; once is enough.
void warm_locks();

// The same by a thread of its own, for processes that are about to begin. Call it when signals are blocked.
inline void warm_locks_meanwhile() { std::thread(warm_locks).detach(); }

}  // namespace penstock::rpc
