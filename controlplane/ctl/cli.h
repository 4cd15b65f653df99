// penstockctl as a function: arguments in, text out. main() and the tests call it.
//
// Exit codes: 0 answered, 1 the process could not be asked or refused, 2 the command line is wrong.
#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace penstock::ctl {

// `arguments` without the program's name. `socket_directory`: where the default sockets are.
int run(std::vector<std::string> arguments, std::ostream& out, std::ostream& err,
        const std::string& socket_directory = "/run/penstock");

}  // namespace penstock::ctl
