// A small map of text keys to values that survives crashes: what a control process must remember.
//
// One file, mode 0600: a line per change, "key TAB base64(value) TAB checksum"; an empty value removes the key. Changes
// are appended; a torn last line (crash while writing) and damaged lines are skipped when read. The file is rewritten
// beside and renamed when it has grown to four times what it holds.
//
// What was flushed survives the process at once. A thread of its own syncs it to the disk, because a busy disk takes tens
// of milliseconds and all packets of a loop would wait for it; and not before kGather, because on a virtual machine
// handing a block to the disk can keep the processor itself for milliseconds, just when a grant is on its way. A power
// failure takes at most what was flushed in the moment before. What a disk has failed to sync may be lost from the page
// cache, too, so all is written anew then, every kRetry until it can be; changes are appended meanwhile. Used by one
// thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "controlplane/io/descriptor.h"

namespace penstock::io {

class RecordLog {
 public:
  static constexpr std::chrono::seconds kRetry{5};
  static constexpr std::chrono::milliseconds kGather{500};
  using Sync = std::function<int(int descriptor)>;  // as fdatasync(2); called on any thread

  // Opens or creates. nullptr and `error` set when that fails. Another `sync` is for tests.
  [[nodiscard]] static std::unique_ptr<RecordLog> open(const std::string& path, std::string& error, Sync sync = {});
  ~RecordLog();  // syncs what was flushed
  RecordLog(const RecordLog&) = delete;
  RecordLog& operator=(const RecordLog&) = delete;

  [[nodiscard]] const std::map<std::string, std::string>& records() const { return records_; }
  [[nodiscard]] std::size_t damaged_lines() const { return damaged_; }

  // Keys have no TAB or line break. Kept in memory at once, in the file with the next flush(). Equal values write
  // nothing.
  void set(const std::string& key, const std::string& value);
  // Writes what set() collected and has it synced; compacts when due, which does wait for the disk. False and `error`
  // set when the disk refuses, or has refused to sync what was flushed before. Call it again: what could not be
  // written is tried again.
  bool flush(std::string& error);

 private:
  RecordLog(std::string path, Sync sync);
  bool read(std::string& error);
  bool compact(std::string& error);
  bool rewrite_later(std::string& error);  // false
  void sync_later();
  void run();

  const std::string path_;
  const Sync sync_;
  std::shared_ptr<Descriptor> file_;
  std::map<std::string, std::string> records_;
  std::string unwritten_;
  std::size_t lines_ = 0;
  std::size_t damaged_ = 0;
  bool rewrite_ = false;  // the file may not hold what it should
  std::chrono::steady_clock::time_point retry_at_{};
  std::string trouble_;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::shared_ptr<Descriptor> to_sync_;
  int failed_ = 0;  // errno of a sync
  bool ending_ = false;
  std::thread thread_;  // last: uses the others
};

}  // namespace penstock::io
