#include "controlplane/io/file_saver.h"

#include <utility>

#include "controlplane/io/file.h"

namespace penstock::io {

FileSaver::FileSaver(std::string path, mode_t mode, std::chrono::milliseconds gather, Failed failed)
    : path_(std::move(path)),
      mode_(mode),
      gather_(gather),
      failed_(std::move(failed)),
      thread_([this] { run(); }) {}

FileSaver::~FileSaver() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void FileSaver::save(std::string content) {
  {
    const std::lock_guard lock(mutex_);
    newest_ = std::move(content);
  }
  wake_.notify_one();
}

void FileSaver::run() {
  bool told = false;
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return newest_ || ending_; });
    if (!newest_) return;
    wake_.wait_for(lock, gather_, [this] { return ending_; });
    const std::string content = *std::exchange(newest_, std::nullopt);
    lock.unlock();
    std::string error;
    const bool written = replace_file(path_, content, mode_, error);
    if (!written && !std::exchange(told, true)) failed_(error);
    if (written) told = false;
    lock.lock();
    if (written) continue;
    if (ending_) return;
    wake_.wait_for(lock, kRetry, [this] { return newest_ || ending_; });
    if (!newest_) newest_ = content;
  }
}

}  // namespace penstock::io
