// The process's one RCU domain: liburcu QSBR behind a few functions, so that ThreadSanitizer can be told about it in
// one place (Debian's liburcu is not instrumented).
//
// Theory of operation. A thread that reads RCU-protected pointers holds a `ThreadRegistration` and calls quiescent()
// once per loop; pointers it has loaded may not be kept beyond that call. Before it sleeps it goes offline (`Offline`),
// or it would hold up every grace period. A writer replaces a pointer, then either waits (synchronize) or hands the old
// object to a `Reclaimer`, which frees it after a later grace period. synchronize() may be called from any thread,
// registered or not; never with a lock held that a registered, online thread waits for.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace penstock::runtime::rcu {

// Registers the calling thread as a reader for the object's lifetime; the thread is online afterwards.
class ThreadRegistration {
 public:
  ThreadRegistration();
  ~ThreadRegistration();
  ThreadRegistration(const ThreadRegistration&) = delete;
  ThreadRegistration& operator=(const ThreadRegistration&) = delete;
};

// The calling (registered) thread holds no RCU pointer at this moment.
void quiescent();

// The calling (registered) thread sleeps: it holds no RCU pointer for this object's lifetime.
class Offline {
 public:
  Offline();
  ~Offline();
  Offline(const Offline&) = delete;
  Offline& operator=(const Offline&) = delete;
};

// Waits until every online reader has been quiescent once. Milliseconds at most while workers run.
void synchronize();

// Objects that are no longer reachable and wait for a grace period. retire() from any thread, never blocks for long
// (one uncontended lock); collect() from one that may wait.
class Reclaimer {
 public:
  Reclaimer() = default;
  // The owner has stopped every reader: what is left is freed at once.
  ~Reclaimer();
  Reclaimer(const Reclaimer&) = delete;
  Reclaimer& operator=(const Reclaimer&) = delete;

  void retire(std::function<void()> free);

  template <typename T>
  void retire(std::unique_ptr<T> object) {
    if (object) retire([raw = object.release()] { delete raw; });
  }

  // Waits for a grace period if anything is waiting, then frees it. Returns how many were freed.
  std::size_t collect();

  [[nodiscard]] std::size_t waiting() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::function<void()>> waiting_;
};

}  // namespace penstock::runtime::rcu
