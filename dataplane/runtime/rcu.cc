#include "dataplane/runtime/rcu.h"

#include <urcu/urcu-qsbr.h>

#if defined(__SANITIZE_THREAD__)
#define PENSTOCK_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PENSTOCK_TSAN 1
#endif
#endif

#ifdef PENSTOCK_TSAN
extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace penstock::runtime::rcu {
namespace {

// What a reader did before it was quiescent happens before what a writer does after its grace period.
#ifdef PENSTOCK_TSAN
char domain_tag;
void reader_is_quiescent() {
  __tsan_release(&domain_tag);
}
void grace_period_is_over() {
  __tsan_acquire(&domain_tag);
}
#else
void reader_is_quiescent() {}
void grace_period_is_over() {}
#endif

}  // namespace

ThreadRegistration::ThreadRegistration() {
  urcu_qsbr_register_thread();
}

ThreadRegistration::~ThreadRegistration() {
  reader_is_quiescent();
  urcu_qsbr_unregister_thread();
}

void quiescent() {
  reader_is_quiescent();
  urcu_qsbr_quiescent_state();
}

Offline::Offline() {
  reader_is_quiescent();
  urcu_qsbr_thread_offline();
}

Offline::~Offline() {
  urcu_qsbr_thread_online();
}

void synchronize() {
  urcu_qsbr_synchronize_rcu();
  grace_period_is_over();
}

Reclaimer::~Reclaimer() {
  for (auto& free : waiting_) free();
}

void Reclaimer::retire(std::function<void()> free) {
  const std::lock_guard lock(mutex_);
  waiting_.push_back(std::move(free));
}

std::size_t Reclaimer::collect() {
  std::vector<std::function<void()>> due;
  {
    const std::lock_guard lock(mutex_);
    due.swap(waiting_);
  }
  if (due.empty()) return 0;
  synchronize();
  for (auto& free : due) free();
  return due.size();
}

std::size_t Reclaimer::waiting() const {
  const std::lock_guard lock(mutex_);
  return waiting_.size();
}

}  // namespace penstock::runtime::rcu
