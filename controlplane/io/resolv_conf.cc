#include "controlplane/io/resolv_conf.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "controlplane/io/file.h"

namespace penstock::io {
namespace {

constexpr std::string_view kFirstLine = "# penstock-client: put back when the client ends\n";
constexpr mode_t kMode = 0644;
constexpr std::uint16_t kDnsPort = 53;

// Calls visit(keyword, rest) for each line that is not a comment.
template <typename Visitor>
void for_each_line(std::string_view text, Visitor visit) {
  while (!text.empty()) {
    const auto end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
    const auto start = line.find_first_not_of(" \t");
    if (start == std::string_view::npos || line[start] == '#' || line[start] == ';') continue;
    line = line.substr(start);
    while (!line.empty() && (line.back() == ' ' || line.back() == '\t' || line.back() == '\r')) line.remove_suffix(1);
    const auto space = line.find_first_of(" \t");
    const std::string_view keyword = line.substr(0, space);
    std::string_view rest = space == std::string_view::npos ? std::string_view{} : line.substr(space);
    while (!rest.empty() && (rest.front() == ' ' || rest.front() == '\t')) rest.remove_prefix(1);
    visit(keyword, rest);
  }
}

}  // namespace

std::vector<Endpoint> parse_nameservers(std::string_view resolv_conf) {
  std::vector<Endpoint> out;
  for_each_line(resolv_conf, [&](std::string_view keyword, std::string_view rest) {
    if (keyword != "nameserver") return;
    // A link-local server's zone ("%eth0") has no place in an Endpoint: such servers are left out.
    if (const auto address = IpAddress::parse(rest)) out.push_back({*address, kDnsPort});
  });
  return out;
}

std::string make_resolv_conf(const std::vector<IpAddress>& resolvers, std::string_view original) {
  std::string out(kFirstLine);
  for (const IpAddress& resolver : resolvers) out += "nameserver " + resolver.to_string() + "\n";
  for_each_line(original, [&](std::string_view keyword, std::string_view rest) {
    if (keyword == "search" || keyword == "domain" || keyword == "options")
      out += std::string(keyword) + " " + std::string(rest) + "\n";
  });
  return out;
}

bool is_our_resolv_conf(std::string_view content) {
  return content.starts_with(kFirstLine);
}

ResolvConf::ResolvConf(std::string path, std::string saved) : path_(std::move(path)), saved_(std::move(saved)) {}

ResolvConf::~ResolvConf() {
  std::string error;
  restore(error);
}

bool ResolvConf::write(std::string_view content, std::string& error) {
  // Renaming over a bind mount fails (EBUSY), and over a symbolic link would cut it off; both are written in place.
  struct stat status {};
  const bool plain = ::lstat(path_.c_str(), &status) != 0 || S_ISREG(status.st_mode);
  if (plain && replace_file(path_, content, kMode, error)) return true;
  return overwrite_file(path_, content, kMode, error);
}

bool ResolvConf::begin(std::string& error) {
  bool missing = false;
  auto current = read_file(path_, error, &missing);
  if (!current && !missing) return false;
  if (current && !is_our_resolv_conf(*current)) {
    original_ = std::move(*current);
    ::unlink(saved_.c_str());
    return true;
  }
  std::string ignored;
  if (auto saved = read_file(saved_, ignored)) original_ = std::move(*saved);
  if (!current) return true;
  // Left by a client that crashed.
  if (!write(original_, error)) return false;
  ::unlink(saved_.c_str());
  return true;
}

bool ResolvConf::set(const std::vector<IpAddress>& resolvers, std::string& error) {
  resolvers_ = resolvers;
  if (!set_ && !replace_file(saved_, original_, 0600, error)) return false;
  set_ = true;
  return write(make_resolv_conf(resolvers_, original_), error);
}

bool ResolvConf::restore(std::string& error) {
  if (!set_) return true;
  set_ = false;
  const auto current = read_file(path_, error);
  if (!current || is_our_resolv_conf(*current)) {
    if (!write(original_, error)) return false;
  }
  ::unlink(saved_.c_str());
  return true;
}

bool ResolvConf::check(std::string& error) {
  if (!set_) return false;
  auto current = read_file(path_, error);
  if (!current || is_our_resolv_conf(*current)) return false;
  original_ = std::move(*current);
  if (replace_file(saved_, original_, 0600, error)) write(make_resolv_conf(resolvers_, original_), error);
  return true;
}

}  // namespace penstock::io
