// A small map of text keys to values that survives crashes: what a control process must remember.
//
// One file, mode 0600: a line per change, "key TAB base64(value) TAB checksum"; an empty value removes the key. Changes
// are appended and synced; a torn last line (crash while writing) and damaged lines are skipped when read. The file is
// rewritten beside and renamed when it has grown to four times what it holds. One process, one thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace penstock::io {

class RecordLog {
 public:
  // Opens or creates. nullptr and `error` set when that fails.
  [[nodiscard]] static std::unique_ptr<RecordLog> open(const std::string& path, std::string& error);
  ~RecordLog();
  RecordLog(const RecordLog&) = delete;
  RecordLog& operator=(const RecordLog&) = delete;

  [[nodiscard]] const std::map<std::string, std::string>& records() const { return records_; }
  [[nodiscard]] std::size_t damaged_lines() const { return damaged_; }

  // Keys have no TAB or line break. Kept in memory at once, on disk with the next flush(). Equal values write nothing.
  void set(const std::string& key, const std::string& value);
  // Writes and syncs what set() collected, compacting when due. False and `error` set when the disk refuses; what could
  // not be written is tried again with the next flush.
  bool flush(std::string& error);

 private:
  RecordLog() = default;
  bool compact(std::string& error);

  std::string path_;
  int fd_ = -1;
  std::map<std::string, std::string> records_;
  std::string unwritten_;
  std::size_t lines_ = 0;
  std::size_t damaged_ = 0;
};

}  // namespace penstock::io
