#include "controlplane/ctl/format.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace penstock::ctl {
namespace {

// One digit behind the point below ten, none from there on; never "1024 KiB" or "10.0".
std::string scaled(double value, std::string_view unit) {
  return value < 9.95 ? fmt::format("{:.1f}{}", value, unit) : fmt::format("{:.0f}{}", value, unit);
}

std::string with_unit(std::uint64_t value, double step, const std::array<std::string_view, 6>& units) {
  double left = static_cast<double>(value);
  std::size_t unit = 0;
  do {
    left /= step;
    ++unit;
  } while (left >= step - 0.5 && unit + 1 < units.size());
  return scaled(left, units[unit]);
}

std::string cleaned(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text.empty() ? "-" : text;
}

}  // namespace

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  return with_unit(bytes, 1024, {" B", " KiB", " MiB", " GiB", " TiB", " PiB"});
}

std::string format_count(std::uint64_t count) {
  if (count < 10'000) return std::to_string(count);
  return with_unit(count, 1000, {"", "k", "M", "G", "T", "P"});
}

std::string format_age(double seconds) {
  if (seconds < 0) return "-";
  if (seconds < 9.95) return fmt::format("{:.1f}s", seconds);
  const auto whole = static_cast<std::uint64_t>(std::min(seconds + 0.5, 1e15));
  if (whole < 60) return fmt::format("{}s", whole);
  if (whole < 3600) return fmt::format("{}m {}s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{}h {}m", whole / 3600, whole / 60 % 60);
  return fmt::format("{}d {}h", whole / 86400, whole / 3600 % 24);
}

std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

std::string shorten(std::string_view text, std::size_t width) {
  if (display_width(text) <= width) return std::string{text};
  std::size_t end = 0;
  for (std::size_t columns = 0; end < text.size(); ++end)
    if ((static_cast<unsigned char>(text[end]) & 0xc0) != 0x80 && ++columns == width) break;
  return std::string{text.substr(0, end)} + "…";
}

void Table::add(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  for (std::string& cell : cells) cell = cleaned(std::move(cell));
  rows_.push_back(std::move(cells));
}

std::string Table::to_string() const {
  std::vector<std::size_t> widths;
  for (const Column& column : columns_) widths.push_back(display_width(column.title));
  for (const auto& row : rows_)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], display_width(row[i]));

  std::string out;
  const auto print = [&](const auto& text_of) {
    std::string line;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const std::string& text = text_of(i);
      const std::string blanks(widths[i] - display_width(text), ' ');
      line += columns_[i].align == Align::right ? blanks + text : text + blanks;
      line += "  ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  };
  print([&](std::size_t i) -> const std::string& { return columns_[i].title; });
  for (const auto& row : rows_) print([&](std::size_t i) -> const std::string& { return row[i]; });
  return out;
}

}  // namespace penstock::ctl
