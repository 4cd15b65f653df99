#include "controlplane/core/dns/message.h"

namespace penstock::dns {

std::uint16_t load16(Bytes bytes, std::size_t at) {
  return static_cast<std::uint16_t>(bytes[at] << 8 | bytes[at + 1]);
}
std::uint32_t load32(Bytes bytes, std::size_t at) {
  return std::uint32_t{load16(bytes, at)} << 16 | load16(bytes, at + 2);
}
void store16(MutableBytes bytes, std::size_t at, std::uint16_t value) {
  bytes[at] = static_cast<std::uint8_t>(value >> 8);
  bytes[at + 1] = static_cast<std::uint8_t>(value);
}
void store32(MutableBytes bytes, std::size_t at, std::uint32_t value) {
  store16(bytes, at, static_cast<std::uint16_t>(value >> 16));
  store16(bytes, at + 2, static_cast<std::uint16_t>(value));
}

bool same_question(Bytes a, Bytes b) {
  if (a.size() != b.size() || a.size() < 5) return false;
  const std::size_t name = a.size() - 4;
  return same_name(a.first(name), b.first(name)) && load32(a, name) == load32(b, name);
}

RdataLayout rdata_layout(std::uint16_t type) {
  switch (type) {
    case type::ns:
    case 3:  // MD
    case 4:  // MF
    case type::cname:
    case 7:  // MB
    case 8:  // MG
    case 9:  // MR
    case type::ptr:
      return {"n", true};
    case type::soa:
      return {"nn44444", true};
    case type::minfo:
      return {"nn", true};
    case type::mx:
      return {"2n", true};
    case type::rp:
      return {"nn", false};
    case type::afsdb:
    case type::rt:
    case type::kx:
      return {"2n", false};
    case type::px:
      return {"2nn", false};
    case type::srv:
      return {"6n", false};
    case type::naptr:
      return {"4sssn", false};
    case type::dname:
      return {"n", false};
    case type::svcb:
    case type::https:
      return {"2n*", false};
    case type::a:
      return {"4", false};
    case type::aaaa:
      return {"88", false};
    case type::hinfo:
      return {"ss", false};
    default:
      return {};
  }
}

namespace {

// Walks an rdata by its layout; `visit(kind, start, end)` for every field. False when it does not fit exactly.
template <typename Visit>
bool walk_rdata(Bytes message, const Record& record, const char* fields, Visit&& visit) {
  const Bytes upto = message.first(record.end());
  std::size_t at = record.rdata_at;
  for (const char* field = fields; *field != '\0'; ++field) {
    const std::size_t start = at;
    if (*field == 'n') {
      const auto name = read_name(upto, at);
      if (!name) return false;
    } else if (*field == 's') {
      if (at >= upto.size()) return false;
      at += 1U + upto[at];
    } else if (*field == '*') {
      at = upto.size();
    } else {
      at += static_cast<std::size_t>(*field - '0');
    }
    if (at > upto.size()) return false;
    visit(*field, start, at);
  }
  return at == upto.size();
}

bool rdata_well_formed(Bytes message, const Record& record) {
  if (record.klass != kClassIn) return true;
  if (record.type == type::txt) {
    std::size_t at = record.rdata_at;
    if (record.rdata_size == 0) return false;
    while (at < record.end()) at += 1U + message[at];
    return at == record.end();
  }
  const RdataLayout layout = rdata_layout(record.type);
  if (*layout.fields == '\0') return true;
  return walk_rdata(message, record, layout.fields, [](char, std::size_t, std::size_t) {});
}

}  // namespace

std::optional<Record> read_record(Bytes message, std::size_t& offset) {
  Record record;
  record.at = offset;
  auto owner = read_name(message, offset);
  if (!owner || message.size() - offset < 10) return std::nullopt;
  record.owner = *owner;
  record.type = load16(message, offset);
  record.klass = load16(message, offset + 2);
  record.ttl_at = offset + 4;
  record.ttl = load32(message, offset + 4);
  record.rdata_size = load16(message, offset + 8);
  record.rdata_at = offset + 10;
  if (message.size() - record.rdata_at < record.rdata_size) return std::nullopt;
  offset = record.end();
  return record;
}

std::optional<Message> parse_message(Bytes bytes) {
  const Header* header = view_as<Header>(bytes);
  if (header == nullptr || header->questions.host() > 1 || bytes.size() > 65535) return std::nullopt;
  Message message;
  message.id = header->id.host();
  message.flags = header->flags.host();
  std::size_t at = kHeaderSize;
  if (header->questions.host() == 1) {
    const auto name = read_name(bytes, at);
    if (!name || bytes.size() - at < 4) return std::nullopt;
    message.has_question = true;
    message.qname = *name;
    message.qtype = load16(bytes, at);
    message.qclass = load16(bytes, at + 2);
    at += 4;
  }
  message.question_end = at;
  const std::uint16_t counts[] = {header->answers.host(), header->authorities.host(), header->additionals.host()};
  for (const Section section : {Section::answer, Section::authority, Section::additional}) {
    for (unsigned i = 0; i < counts[static_cast<std::size_t>(section)]; ++i) {
      auto record = read_record(bytes, at);
      if (!record || !rdata_well_formed(bytes, *record)) return std::nullopt;
      record->section = section;
      if (record->type == type::opt) {
        if (message.opt || section != Section::additional || !record->owner.is_root()) return std::nullopt;
        message.opt = message.records.size();
      }
      message.records.push_back(*record);
    }
  }
  if (at != bytes.size()) return std::nullopt;
  return message;
}

std::optional<WireName> rdata_name(Bytes message, const Record& record) {
  std::optional<WireName> found;
  walk_rdata(message, record, rdata_layout(record.type).fields, [&](char kind, std::size_t start, std::size_t) {
    if (kind == 'n' && !found) found = read_name(message, start);
  });
  return found;
}

MessageWriter::MessageWriter(std::uint16_t id, std::uint16_t flags, Bytes qname, std::uint16_t qtype,
                             std::uint16_t qclass) {
  out_.reserve(512);
  put16(id);
  put16(flags);
  put16(1);
  out_.resize(kHeaderSize, 0);
  put_name(qname, true);
  put16(qtype);
  put16(qclass);
}

void MessageWriter::put16(std::uint16_t value) {
  out_.push_back(static_cast<std::uint8_t>(value >> 8));
  out_.push_back(static_cast<std::uint8_t>(value));
}
void MessageWriter::put32(std::uint32_t value) {
  put16(static_cast<std::uint16_t>(value >> 16));
  put16(static_cast<std::uint16_t>(value));
}
void MessageWriter::put(Bytes bytes) {
  out_.insert(out_.end(), bytes.begin(), bytes.end());
}

void MessageWriter::put_name(Bytes name, bool compress) {
  while (!name.empty() && name[0] != 0) {
    if (compress) {
      auto [known, added] = suffixes_.try_emplace(name_key(name), static_cast<std::uint16_t>(out_.size()));
      if (!added) {
        put16(static_cast<std::uint16_t>(0xc000 | known->second));
        return;
      }
      if (out_.size() >= 0x4000) suffixes_.erase(known);  // beyond what a pointer can say
    }
    const std::size_t length = 1U + name[0];
    put(name.first(length));
    name = name.subspan(length);
  }
  out_.push_back(0);
}

std::size_t MessageWriter::begin(Section section, Bytes owner, std::uint16_t type, std::uint16_t klass,
                                 std::uint32_t ttl) {
  const std::size_t count_at = 6 + 2 * static_cast<std::size_t>(section);
  store16(out_, count_at, static_cast<std::uint16_t>(load16(out_, count_at) + 1));
  put_name(owner, true);
  put16(type);
  put16(klass);
  put32(ttl);
  put16(0);
  return out_.size() - 2;
}

void MessageWriter::end(std::size_t length_at) {
  store16(out_, length_at, static_cast<std::uint16_t>(out_.size() - length_at - 2));
}

void MessageWriter::add(Section section, Bytes owner, std::uint16_t type, std::uint16_t klass, std::uint32_t ttl,
                        Bytes rdata) {
  const std::size_t length_at = begin(section, owner, type, klass, ttl);
  put(rdata);
  end(length_at);
}

void MessageWriter::add_name(Section section, Bytes owner, std::uint16_t type, std::uint32_t ttl, Bytes target) {
  const std::size_t length_at = begin(section, owner, type, kClassIn, ttl);
  put_name(target, true);
  end(length_at);
}

void MessageWriter::copy(Bytes message, const Record& record, std::uint32_t ttl) {
  const std::size_t length_at = begin(record.section, record.owner.bytes(), record.type, record.klass, ttl);
  const RdataLayout layout = record.klass == kClassIn ? rdata_layout(record.type) : RdataLayout{};
  if (*layout.fields == '\0') {
    put(message.subspan(record.rdata_at, record.rdata_size));
  } else {
    walk_rdata(message, record, layout.fields, [&](char kind, std::size_t start, std::size_t stop) {
      if (kind != 'n') return put(message.subspan(start, stop - start));
      std::size_t at = start;
      if (const auto name = read_name(message, at)) put_name(name->bytes(), layout.compressible);
    });
  }
  end(length_at);
}

void MessageWriter::add_negative_soa(Bytes zone, std::uint32_t ttl) {
  const std::size_t length_at = begin(Section::authority, zone, type::soa, kClassIn, ttl);
  put_name(own_server_name().bytes(), true);
  put_name(own_server_name().bytes(), true);
  put32(1);      // serial
  put32(3600);   // refresh
  put32(600);    // retry
  put32(86400);  // expire
  put32(ttl);    // minimum: how long the denial holds (RFC 2308 §4)
  end(length_at);
}

const WireName& own_server_name() {
  static const WireName name = *wire_name("dns.penstock.internal");
  return name;
}

}  // namespace penstock::dns
