#include <csignal>
#include <iostream>

#include "controlplane/ctl/cli.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // `penstockctl show flows | head` ends without a fuss
  return penstock::ctl::run({argv + 1, argv + argc}, std::cout, std::cerr);
}
