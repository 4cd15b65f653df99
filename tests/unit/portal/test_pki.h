// A throw-away certificate authority and a server certificate for `portal.example`, made in the test.
#pragma once

#include <string>

namespace penstock {

struct TestPki {
  std::string ca_pem;
  std::string certificate_pem;
  std::string key_pem;
};

[[nodiscard]] TestPki make_test_pki();

}  // namespace penstock
