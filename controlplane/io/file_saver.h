// Keeps a small file up to date without holding anybody up: a disk that is busy takes tens of milliseconds to sync, and a
// tunnel's first packet, or all packets of a loop, would wait for it.
//
// Theory of operation. A thread of its own replaces the file (file.h) with the newest content, `gather` after the first
// change: what changes is most often the beginning of something that must be quick, and on a virtual machine handing a
// block to the disk can keep the processor itself for milliseconds. What was superseded meanwhile is never written. What
// cannot be written is tried again every kRetry, until it can be or something newer comes; the first failure of a row
// is told. The destructor writes what is newest, once. After a crash or a power failure the file is what it was at most
// `gather` and a moment before: of that content or, whole, of an earlier one.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace penstock::io {

class FileSaver {
 public:
  static constexpr std::chrono::seconds kRetry{5};
  // Called on the saver's thread, with the operating system's words.
  using Failed = std::function<void(const std::string& why)>;

  FileSaver(std::string path, mode_t mode, std::chrono::milliseconds gather, Failed failed);
  ~FileSaver();
  FileSaver(const FileSaver&) = delete;
  FileSaver& operator=(const FileSaver&) = delete;

  // Any thread. Does not block on the disk.
  void save(std::string content);

 private:
  void run();

  const std::string path_;
  const mode_t mode_;
  const std::chrono::milliseconds gather_;
  const Failed failed_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::optional<std::string> newest_;  // not written yet
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace penstock::io
