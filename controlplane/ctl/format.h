// Numbers as people read them, and aligned tables. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace penstock::ctl {

// 0 B, 999 B, 1.2 KiB, 34 MiB: at most four digits.
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);
// 0, 9999, 12.3k, 45M.
[[nodiscard]] std::string format_count(std::uint64_t count);
// Seconds: "-" when negative (unknown, never), 0.4s, 59s, 3m 20s, 2h 5m, 4d 7h.
[[nodiscard]] std::string format_age(double seconds);
// Columns on a terminal; UTF-8 continuation bytes take none.
[[nodiscard]] std::size_t display_width(std::string_view text);
// Cut in the middle of nothing: at most `width` columns, ending in an ellipsis when something is missing.
[[nodiscard]] std::string shorten(std::string_view text, std::size_t width);

// Two spaces between columns, no trailing blanks; numbers to the right. An empty cell prints as "-".
class Table {
 public:
  enum class Align : std::uint8_t { left, right };
  struct Column {
    std::string title;
    Align align = Align::left;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // As many cells as columns. Control characters in a cell print as '?': they may come from the network.
  void add(std::vector<std::string> cells);
  [[nodiscard]] std::string to_string() const;
  [[nodiscard]] bool empty() const { return rows_.empty(); }

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace penstock::ctl
