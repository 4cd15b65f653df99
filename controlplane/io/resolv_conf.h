// /etc/resolv.conf: points the system at the stub resolver while the client runs, and knows what stood there before.
//
// The file's earlier content is saved in the state directory before anything is changed, so that a client that crashed
// and is started again restores what the network had set, not what its predecessor wrote. Our version is recognised by
// its first line: whoever replaced it meanwhile (DHCP) is believed, and is not overwritten at exit. The file is written
// in place rather than replaced where it is a bind mount (`ip netns exec` makes it one); a symbolic link is followed.
// One thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dataplane/core/base/address.h"

namespace penstock::io {

// `nameserver` lines, in order, port 53.
[[nodiscard]] std::vector<Endpoint> parse_nameservers(std::string_view resolv_conf);
// What we write: our resolver, with the search domains and options of the original.
[[nodiscard]] std::string make_resolv_conf(const std::vector<IpAddress>& resolvers, std::string_view original);
// Whether a file's content is ours.
[[nodiscard]] bool is_our_resolv_conf(std::string_view content);

class ResolvConf {
 public:
  // `saved`: where the original is kept, e.g. in the state directory.
  ResolvConf(std::string path, std::string saved);
  ~ResolvConf();
  ResolvConf(const ResolvConf&) = delete;
  ResolvConf& operator=(const ResolvConf&) = delete;

  // Reads the current file; if it is a crashed predecessor's, the saved original counts (and is put back). Call first.
  bool begin(std::string& error);
  // The original's content, whether or not we have changed the file.
  [[nodiscard]] const std::string& original() const { return original_; }
  bool set(const std::vector<IpAddress>& resolvers, std::string& error);
  // Puts the original back, unless somebody else has written the file since.
  bool restore(std::string& error);
  // Somebody may have replaced the file (DHCP): if so, takes the new content as the original and writes ours again.
  // True when it changed.
  bool check(std::string& error);

 private:
  bool write(std::string_view content, std::string& error);

  std::string path_;
  std::string saved_;
  std::string original_;
  std::vector<IpAddress> resolvers_;
  bool set_ = false;
};

}  // namespace penstock::io
