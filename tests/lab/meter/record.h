// What the meter writes down: one record per packet, in the machine's byte order, read by penstock_lab/meter.py.
//
// Times are CLOCK_REALTIME in nanoseconds: both ends run on one machine, and `ping -D` and tcpdump use the same clock.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace penstock::meter {

struct Record {
  std::uint32_t sequence;  // of the packet; for the download: bytes read at once
  std::uint32_t error;     // errno of a failed send, else 0
  std::int64_t sent;       // by the sender's clock
  std::int64_t at;         // sent or received
};
static_assert(sizeof(Record) == 24);

// Buffered, so that writing disturbs nothing; flushed when the buffer is full, every quarter of a second, and at the
// end.
class RecordFile {
 public:
  explicit RecordFile(const std::string& path) : file_(std::fopen(path.c_str(), "wb")) {}
  ~RecordFile() {
    flush();
    if (file_ != nullptr) std::fclose(file_);
  }
  RecordFile(const RecordFile&) = delete;
  RecordFile& operator=(const RecordFile&) = delete;

  [[nodiscard]] bool ok() const { return file_ != nullptr && !failed_; }
  void add(const Record& record) {
    records_.push_back(record);
    if (records_.size() >= 512 || record.at - flushed_ > 250'000'000) {
      flush();
      flushed_ = record.at;
    }
  }
  void flush() {
    if (file_ == nullptr || records_.empty()) return;
    failed_ = failed_ || std::fwrite(records_.data(), sizeof(Record), records_.size(), file_) != records_.size();
    failed_ = std::fflush(file_) != 0 || failed_;
    records_.clear();
  }

 private:
  std::FILE* file_;
  bool failed_ = false;
  std::int64_t flushed_ = 0;
  std::vector<Record> records_;
};

}  // namespace penstock::meter
