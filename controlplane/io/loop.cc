#include "controlplane/io/loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <systemd/sd-event.h>
#include <time.h>
#include <unistd.h>

#include <csignal>
#include <mutex>
#include <system_error>
#include <utility>
#include <vector>

namespace penstock::io {
namespace {

void check(int result, const char* what) {
  if (result < 0) throw std::system_error(-result, std::generic_category(), what);
}

std::uint64_t to_usec(Instant at) {
  if (at == kNever) return UINT64_MAX;
  const auto count = at.time_since_epoch().count();
  // Rounded up: a timer must not fire before its deadline, or its owner finds nothing due and arms it again.
  return count <= 0 ? 1 : (static_cast<std::uint64_t>(count) + 999) / 1000;
}

}  // namespace

// Shared between the Source and the callback under way, so that a callback may destroy its own Source.
struct Loop::Source::Record {
  sd_event_source* source = nullptr;
  std::function<void(std::uint32_t)> on_fd;
  std::function<void()> on_event;

  ~Record() { remove(); }
  void remove() {
    if (source == nullptr) return;
    sd_event_source_set_enabled(source, SD_EVENT_OFF);
    sd_event_source_unref(source);
    source = nullptr;
  }

  // The Record is kept alive through `self` for as long as its callback runs.
  std::weak_ptr<Record> self;

  static int fd_ready(sd_event_source*, int, std::uint32_t events, void* userdata) {
    const auto keep = static_cast<Record*>(userdata)->self.lock();
    if (keep) keep->on_fd(events);
    return 0;
  }
  static int time_reached(sd_event_source*, std::uint64_t, void* userdata) {
    const auto keep = static_cast<Record*>(userdata)->self.lock();
    if (keep) keep->on_event();
    return 0;
  }
  static int signal_arrived(sd_event_source*, const struct signalfd_siginfo*, void* userdata) {
    const auto keep = static_cast<Record*>(userdata)->self.lock();
    if (keep) keep->on_event();
    return 0;
  }
  static int turn_ended(sd_event_source*, void* userdata) {
    const auto keep = static_cast<Record*>(userdata)->self.lock();
    if (keep) keep->on_event();
    return 0;
  }
};

Loop::Source::Source() = default;
Loop::Source::Source(std::shared_ptr<Record> record) : record_(std::move(record)) {
  record_->self = record_;
}
Loop::Source::Source(Source&&) noexcept = default;
Loop::Source& Loop::Source::operator=(Source&& other) noexcept {
  if (this != &other) {
    reset();
    record_ = std::move(other.record_);
  }
  return *this;
}
Loop::Source::~Source() {
  reset();
}

void Loop::Source::reset() {
  if (record_) record_->remove();
  record_.reset();
}

void Loop::Source::set_events(std::uint32_t events) {
  if (record_ && record_->source != nullptr) sd_event_source_set_io_events(record_->source, events);
}

void Loop::Timer::set(Instant at) {
  if (!source_.record_ || source_.record_->source == nullptr) return;
  sd_event_source* source = source_.record_->source;
  if (at == kNever) {
    sd_event_source_set_enabled(source, SD_EVENT_OFF);
    return;
  }
  sd_event_source_set_time(source, to_usec(at));
  sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

struct Loop::Impl {
  sd_event* event = nullptr;
  int wake = -1;
  Source wake_source;
  std::mutex mutex;
  std::vector<std::function<void()>> posted;  // guarded by mutex

  void run_posted() {
    std::uint64_t count = 0;
    // EAGAIN when another wake-up took it: the list below tells.
    [[maybe_unused]] const auto n = ::read(wake, &count, sizeof count);
    std::vector<std::function<void()>> work;
    {
      const std::scoped_lock lock(mutex);
      work.swap(posted);
    }
    for (auto& item : work) item();
  }
};

Loop::Loop() : impl_(std::make_unique<Impl>()) {
  std::signal(SIGPIPE, SIG_IGN);
  check(sd_event_new(&impl_->event), "sd_event_new");
  impl_->wake = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (impl_->wake < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  impl_->wake_source = add_fd(impl_->wake, EPOLLIN, [this](std::uint32_t) { impl_->run_posted(); });
}

Loop::~Loop() {
  impl_->wake_source.reset();
  if (impl_->wake >= 0) ::close(impl_->wake);
  sd_event_unref(impl_->event);
}

int Loop::run() {
  const int code = sd_event_loop(impl_->event);
  check(code, "sd_event_loop");
  return code;
}

bool Loop::run_once(Duration timeout) {
  const auto usec = std::chrono::duration_cast<std::chrono::microseconds>(timeout).count();
  const int result = sd_event_run(impl_->event, usec < 0 ? 0 : static_cast<std::uint64_t>(usec));
  if (result == -ESTALE) return false;  // stopped
  check(result, "sd_event_run");
  return result > 0;
}

void Loop::stop(int code) {
  post([event = impl_->event, code] { sd_event_exit(event, code); });
}

Now Loop::now() {
  timespec boot{};
  timespec real{};
  ::clock_gettime(CLOCK_BOOTTIME, &boot);
  ::clock_gettime(CLOCK_REALTIME, &real);
  return Now{Instant(std::chrono::seconds(boot.tv_sec) + std::chrono::nanoseconds(boot.tv_nsec)),
             WallTime{static_cast<std::uint64_t>(real.tv_sec), static_cast<std::uint32_t>(real.tv_nsec)}};
}

Loop::Source Loop::add_fd(int fd, std::uint32_t events, std::function<void(std::uint32_t)> callback) {
  auto record = std::make_shared<Source::Record>();
  record->on_fd = std::move(callback);
  check(sd_event_add_io(impl_->event, &record->source, fd, events, &Source::Record::fd_ready, record.get()),
        "sd_event_add_io");
  return Source(std::move(record));
}

Loop::Timer Loop::add_timer(std::function<void()> callback) {
  auto record = std::make_shared<Source::Record>();
  record->on_event = std::move(callback);
  check(sd_event_add_time(impl_->event, &record->source, CLOCK_BOOTTIME, UINT64_MAX, 1, &Source::Record::time_reached,
                          record.get()),
        "sd_event_add_time");
  sd_event_source_set_enabled(record->source, SD_EVENT_OFF);
  Timer timer;
  timer.source_ = Source(std::move(record));
  return timer;
}

Loop::Source Loop::add_signal(int signal, std::function<void()> callback) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  if (const int error = ::pthread_sigmask(SIG_BLOCK, &set, nullptr); error != 0)
    throw std::system_error(error, std::generic_category(), "pthread_sigmask");
  auto record = std::make_shared<Source::Record>();
  record->on_event = std::move(callback);
  check(sd_event_add_signal(impl_->event, &record->source, signal, &Source::Record::signal_arrived, record.get()),
        "sd_event_add_signal");
  return Source(std::move(record));
}

Loop::Source Loop::add_after_turn(std::function<void()> callback) {
  auto record = std::make_shared<Source::Record>();
  record->on_event = std::move(callback);
  check(sd_event_add_post(impl_->event, &record->source, &Source::Record::turn_ended, record.get()),
        "sd_event_add_post");
  return Source(std::move(record));
}

void Loop::post(std::function<void()> work) {
  {
    const std::scoped_lock lock(impl_->mutex);
    impl_->posted.push_back(std::move(work));
  }
  const std::uint64_t one = 1;
  // Fails only when the counter is full, and then the loop is awake already.
  [[maybe_unused]] const auto n = ::write(impl_->wake, &one, sizeof one);
}

}  // namespace penstock::io
