"""What surrounds Penstock in the lab: TLS certificates, relay, name servers, web servers, iperf3. All real programs."""

import hashlib
import os
import pathlib
import secrets

from . import topology as net
from .process import wait_until
from .topology import run

BIG_FILE_BYTES = 50 * 1000 * 1000

ZONE = """$ORIGIN corp.example.
$TTL 60
@        SOA ns.corp.example. admin.corp.example. 1 3600 600 86400 10
@        NS  ns
ns       A     {dns4}
ns       AAAA  {dns6}
web4     A     {web4}
web6     AAAA  {web6}
web      A     {both4}
web      AAAA  {both6}
iperf    A     {both4}
iperf    AAAA  {both6}
forbidden A    127.0.0.1
{extra}
"""


def write(path, text, mode=0o644):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w") as out:
        out.write(text)
    os.chmod(path, mode)
    return path


def make_pki(directory):
    """A throw-away certificate authority and the portal's certificate."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3",
        "-keyout", str(directory / "ca.key"), "-out", str(directory / "ca.pem"), "-subj", "/CN=lab CA")
    os.chmod(directory / "ca.key", 0o600)
    make_certificate(directory, "portal", "portal.example")


def make_certificate(directory, name, host):
    """NAME.key and NAME.pem for that host, signed by the lab's authority."""
    key, request, certificate = directory / f"{name}.key", directory / f"{name}.csr", directory / f"{name}.pem"
    run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(key),
        "-out", str(request), "-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}")
    run("openssl", "x509", "-req", "-in", str(request), "-CA", str(directory / "ca.pem"), "-CAkey",
        str(directory / "ca.key"), "-CAcreateserial", "-days", "3", "-copy_extensions", "copy", "-out",
        str(certificate))
    os.chmod(key, 0o600)


class Services:
    """Starts the relay and the servers of the internet and of the LAN."""

    def __init__(self, network, processes, directory):
        self.network = network
        self.processes = processes
        self.directory = pathlib.Path(directory)

    @property
    def relay_secret(self):
        path = self.directory / "relay.secret"
        if not path.exists():
            write(path, secrets.token_hex(24), 0o600)
        return path

    @property
    def dual_stack(self):
        """Whether this lab's internet has IPv6."""
        return net.RELAY6 in self.network.ip("inet", "address", "show", "dev", "br0", capture=True)

    def start(self, parts=()):
        make_pki(self.directory / "pki")
        if "tcp443" in parts or "proxy" in parts:
            make_certificate(self.directory / "pki", "relay", "relay.example")
        self.start_relay()
        if "relay2" in parts:
            self.start_relay("relay2")
        self._public_resolver()
        self._name_server()
        self._web("inet", {"public": [net.PUBLIC_WEB]})
        self._web("lan", {"web4": [net.WEB4], "web6": [f"[{net.WEB6}]"], "web": [net.WEB_BOTH4, f"[{net.WEB_BOTH6}]"],
                          "cidr": [net.CIDR_HOST4], "address": [net.ADDRESS4, f"[{net.ADDRESS6}]"],
                          "forbidden": [net.FORBIDDEN4]})
        self.processes.start("iperf3", "lan", ["iperf3", "--server"])
        self._wait_for_ports()

    def start_relay(self, name="relay"):
        addresses = (net.RELAY, net.RELAY_ALT) if name == "relay" else (net.RELAY2,)
        listening = addresses + ((net.RELAY6,) if name == "relay" and self.dual_stack else ())
        directory = self.directory / name
        config = write(directory / "turnserver.conf", "\n".join([
            *(f"listening-ip={address}" for address in listening), f"relay-ip={addresses[0]}",
            *self._relay_tls(), "listening-port=3478", "min-port=49152", "max-port=49999", "fingerprint",
            "use-auth-secret",
            f"static-auth-secret={self.relay_secret.read_text().strip()}", "realm=penstock", "no-dtls",
            "no-cli", "mobility", "no-multicast-peers", "log-file=stdout", "simple-log",
            f"userdb={directory}/turndb", f"pidfile={directory}/turnserver.pid", ""]), 0o600)
        self.processes.start(name, "inet", ["turnserver", "-c", str(config)])

    def _relay_tls(self):
        """Over TLS as well where nothing else gets through; once the certificate is there (see start())."""
        if not (self.directory / "pki" / "relay.pem").exists():
            return ["no-tls"]
        return ["tls-listening-port=443", f"cert={self.directory}/pki/relay.pem",
                f"pkey={self.directory}/pki/relay.key"]

    def _public_resolver(self):
        config = write(self.directory / "unbound" / "unbound.conf", f"""server:
  interface: {net.RESOLVER}
  access-control: 198.51.100.0/24 allow
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{self.directory}/unbound"
  pidfile: ""
  use-syslog: no
  logfile: ""
  verbosity: 1
  log-queries: yes
  module-config: "iterator"
  do-not-query-localhost: no
  local-zone: "." static
  local-zone: "public.example." static
  local-data: "www.public.example. 60 A {net.PUBLIC_WEB}"
  local-data: "www.public.example. 60 TXT outside"
  local-data: "portal.example. 60 A {net.PORTAL}"
  local-data-ptr: "{net.PUBLIC_WEB} www.public.example"
remote-control:
  control-enable: no
""")
        self.processes.start("resolver", "inet", ["unbound", "-d", "-p", "-c", str(config)])

    def _name_server(self):
        directory = self.directory / "nsd"
        extra = "\n".join(f"n{i} A {net.WEB_BOTH4}" for i in range(20))
        write(directory / "corp.zone", ZONE.format(dns4=net.LAN_DNS4, dns6=net.LAN_DNS6, web4=net.WEB4, web6=net.WEB6,
                                                   both4=net.WEB_BOTH4, both6=net.WEB_BOTH6, extra=extra))
        config = write(directory / "nsd.conf", f"""server:
  ip-address: {net.LAN_DNS4}
  ip-address: {net.LAN_DNS6}
  server-count: 1
  username: ""
  chroot: ""
  zonesdir: "{directory}"
  database: ""
  pidfile: "{directory}/nsd.pid"
  xfrdfile: "{directory}/xfrd.state"
  zonelistfile: "{directory}/zone.list"
  xfrdir: "{directory}"
remote-control:
  control-enable: no
zone:
  name: corp.example
  zonefile: corp.zone
""")
        self.processes.start("dns", "lan", ["nsd", "-d", "-c", str(config)])

    def big_file(self):
        """The file that downloads compare: random once per lab. Returns (path, SHA-256)."""
        path = self.directory / "www" / "big"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(BIG_FILE_BYTES))
        return path, hashlib.sha256(path.read_bytes()).hexdigest()

    def _web(self, host, servers):
        big, _ = self.big_file()
        base = self.directory / f"nginx-{host}"
        for sub in ("body", "proxy", "fastcgi", "uwsgi", "scgi"):
            (base / sub).mkdir(parents=True, exist_ok=True)
        blocks = "".join(f"""
  server {{
    {' '.join(f'listen {address}:80;' for address in addresses)}
    location = / {{ default_type text/plain; return 200 "server={name} remote=$remote_addr\\n"; }}
    location = /big {{ alias {big}; }}
  }}""" for name, addresses in servers.items())
        config = write(base / "nginx.conf", f"""daemon off;
master_process off;
user root;
pid {base}/pid;
error_log stderr;
events {{ worker_connections 8192; }}
http {{
  access_log {base}/access.log;
  client_body_temp_path {base}/body; proxy_temp_path {base}/proxy; fastcgi_temp_path {base}/fastcgi;
  uwsgi_temp_path {base}/uwsgi; scgi_temp_path {base}/scgi;
  sendfile on;
  keepalive_timeout 300;{blocks}
}}
""")
        self.processes.start(f"web-{host}", host, ["nginx", "-c", str(config), "-e", "stderr"])

    def _wait_for_ports(self):
        """Listening sockets of every server, seen in the namespace itself."""
        def listening(host, kind, *ports):
            text = self.network.inside(host, "ss", "-Hln", kind, capture=True)
            return all(f":{port} " in text for port in ports)
        wait_until(lambda: listening("inet", "-t", 80) and listening("inet", "-u", 53, 3478), 15, "internet servers")
        wait_until(lambda: listening("lan", "-t", 80, 53, 5201) and listening("lan", "-u", 53), 15, "LAN servers")
