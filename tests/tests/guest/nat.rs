//! A network without root, by passt. The host is a namespace with a way out: it is made as root.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    os::unix::fs::{MetadataExt, chown},
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};
use securectr_tests::{
    Finished, Started, User, World, checkout, eventually, image, program, run_in, securectr,
};

/// Nobody on the host.
const USER_ID: u32 = 54_321;

fn call(world: &World, user: &User, words: &[&str]) -> Result<Finished> {
    Started::spawn(&mut world.on_host(&user.command(words)))?.finish(b"")
}

fn succeed(world: &World, user: &User, words: &[&str]) -> Result<String> {
    let finished = call(world, user, words)?;
    ensure!(finished.code == 0, "{words:?}: {finished:?}");
    Ok(finished.out().trim_end_matches('\n').to_owned())
}

/// One with an image, in a world.
fn run_of(name: &str, world: &World, options: &[&str], script: &str) -> Result<Finished> {
    let shell = if name == "debian" { "bash" } else { "sh" };
    let mut command = securectr();
    command.arg("run").args(options).arg(image(name)).args([shell, "-c", script]);
    Started::spawn(&mut world.on_host(&command))?.finish(b"")
}

fn run(world: &World, options: &[&str], script: &str) -> Result<Finished> {
    run_of("busybox", world, options, script)
}

/// With bash, which has sockets, and the C library's resolver.
fn run_debian(world: &World, options: &[&str], script: &str) -> Result<Finished> {
    let get = "get() { exec 3<>/dev/tcp/$1/$2 && cat <&3; };";
    run_of("debian", world, options, &format!("{get} {script}"))
}

fn with_nginx() -> Result<User> {
    let user = User::new()?;
    let archive = checkout().join("target/images/nginx.tar").display().to_string();
    user.succeed(&["load", "-q", "-t", "nginx", &format!("oci-archive:{archive}")])?;
    Ok(user)
}

/// A page, from the host or from the world.
pub(crate) fn page(address: &str) -> impl FnOnce() -> Result<String> + Send + 'static {
    let address = address.to_owned();
    move || {
        let address: SocketAddr = address.parse()?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(30))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let _ = stream.shutdown(Shutdown::Both);
        Ok(answer)
    }
}

fn eventually_a_page(world: &World, address: &'static str) -> Result<()> {
    let fetched = || Ok(world.inside_host(page(address)).is_ok_and(|page| page.contains("a page of nginx")));
    eventually(&format!("a page at {address}"), fetched)
}

#[test]
fn both_internet_protocols_and_names_reach_the_world_as_the_host() -> Result<()> {
    let world = World::new()?;
    for address in ["10.77.0.1:5000", "[fd00:77::1]:5000"] {
        world.serve(address.parse()?)?;
    }
    world.echo("10.77.0.1:5001".parse()?)?;
    let script = "cat /etc/resolv.conf; get 10.77.0.1 5000; get fd00:77::1 5000; get web.test 5000; cat /sys/class/net/eth0/mtu; \
                  exec 4<>/dev/udp/10.77.0.1/5001; echo hello >&4; echo said $(head -1 <&4)";
    let said = run_debian(&world, &["--network", "nat"], script)?;
    let lines = [
        "nameserver 10.193.86.3\n",
        "you are 10.77.0.2\nyou are fd00:77::2\nyou are ",
        "32768\n",
        "said hello\n",
    ];
    for line in lines {
        ensure!(said.out().contains(line), "no {line:?} in {said:?}");
    }
    assert_eq!(said.out().matches("you are").count(), 3, "{said:?}");
    eventually("passt has gone", || Ok(world.programs()?.is_empty()))
}

#[test]
fn what_goes_out_and_what_comes_in_is_the_same_byte_for_byte() -> Result<()> {
    let world = World::new()?;
    let listener = world.outside(|| Ok(std::net::TcpListener::bind("10.77.0.1:5000")?))?;
    let echo = std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut bytes = vec![0; 5_000_000];
        stream.read_exact(&mut bytes)?;
        Ok(stream.write_all(&bytes)?)
    });
    let script = "head -c 5000000 /dev/urandom >/tmp/x; exec 3<>/dev/tcp/10.77.0.1/5000; cat </tmp/x >&3; cat <&3 | cmp - /tmp/x && echo same";
    let said = run_debian(&world, &["--network", "nat"], script)?;
    assert_eq!(said.out(), "same\n", "{said:?}");
    echo.join().expect("the echo")
}

#[test]
fn what_the_host_keeps_to_itself_is_out_of_reach() -> Result<()> {
    let world = World::new()?;
    world.serve_on_host("127.0.0.1:6000".parse()?)?;
    let own =
        "nc -w 5 127.0.0.1 6000 </dev/null || echo none; nc -w 5 10.193.86.1 6000 </dev/null || echo none";
    let said = run(&world, &["--network", "nat"], own)?;
    assert_eq!(said.out(), "none\nnone\n", "{said:?}");
    // A guest that sends its own loopback's packets to the wire.
    let forged = "ip route del local 127.0.0.0/8 table local; ip route del local 127.0.0.1 table local; \
                  echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet; ip route add 127.0.0.1 via 10.193.86.1; \
                  nc -w 5 127.0.0.1 6000 </dev/null || echo none";
    let said = run(&world, &["--network", "nat", "--cap-add", "NET_ADMIN"], forged)?;
    assert!(said.out().ends_with("none\n") && !said.out().contains("you are"), "{said:?}");
    Ok(())
}

#[test]
fn nginx_is_reached_at_the_hosts_port_and_leaves_nothing() -> Result<()> {
    let world = World::new()?;
    let user = with_nginx()?;
    succeed(&world, &user, &["run", "-d", "-p", "8080:80", "--name", "hellonginx", "nginx"])?;
    eventually_a_page(&world, "127.0.0.1:8080")?;
    ensure!(world.inside_host(page("10.77.0.2:8080"))?.contains("a page of nginx"));
    ensure!(world.outside(page("10.77.0.2:8080"))?.contains("a page of nginx"));
    // Its nginx does not listen to IPv6: who tries that first is to try the other.
    ensure!(world.inside_host(page("[::1]:8080")).is_err_and(|error| error.to_string().contains("refused")));
    assert_eq!(user.succeed(&["port", "hellonginx"])?, "80/tcp -> 0.0.0.0:8080");
    assert_eq!(user.succeed(&["port", "hellonginx", "80"])?, "0.0.0.0:8080");
    assert_eq!(user.succeed(&["ps", "--format", "{{.Ports}}"])?, "0.0.0.0:8080->80/tcp");
    let taken = call(&world, &user, &["run", "-d", "-p", "8080:80", "--name", "second", "nginx"])?;
    ensure!(
        taken.code == 125 && taken.err().contains("publish the port 8080/tcp: another program has it"),
        "{taken:?}"
    );
    assert_eq!(user.succeed(&["rm", "-f", "hellonginx"])?, "hellonginx");
    eventually("nothing is left", || Ok(world.programs()?.is_empty()))?;
    assert!(world.inside_host(page("127.0.0.1:8080")).is_err());
    Ok(())
}

#[test]
fn a_container_that_stays_publishes_again_when_it_starts_again() -> Result<()> {
    let world = World::new()?;
    let user = with_nginx()?;
    succeed(&world, &user, &["run", "-d", "-P", "-p", "127.0.0.1:8081:81", "--name", "web", "nginx"])?;
    let first = user.succeed(&["port", "web", "80/tcp"])?;
    let port: u16 = first.trim_start_matches("0.0.0.0:").parse()?;
    let fetched = move |world: &World, port: u16| {
        world
            .inside_host(page(&format!("127.0.0.1:{port}")))
            .is_ok_and(|page| page.contains("a page of nginx"))
    };
    eventually("a page", || Ok(fetched(&world, port)))?;
    succeed(&world, &user, &["restart", "web"])?;
    let second: u16 = user.succeed(&["port", "web", "80"])?.trim_start_matches("0.0.0.0:").parse()?;
    eventually("a page after the restart", || Ok(fetched(&world, second)))?;
    assert_eq!(user.succeed(&["port", "web", "81"])?, "127.0.0.1:8081");
    user.succeed(&["stop", "web"])?;
    assert_eq!((user.succeed(&["port", "web"])?, world.programs()?), (String::new(), Vec::new()));
    let none = user.call(&["port", "web", "80"])?;
    assert!(none.code == 1 && none.err().contains("no public port '80/tcp'"), "{none:?}");
    Ok(())
}

#[test]
fn an_ordinary_user_needs_no_root() -> Result<()> {
    let world = World::new()?;
    world.serve("10.77.0.1:5000".parse()?)?;
    let home = tempfile::tempdir()?;
    let runtime = home.path().join("runtime");
    fs::create_dir(&runtime)?;
    for path in [home.path(), &runtime] {
        chown(path, Some(USER_ID), Some(USER_ID))?;
    }
    let group = fs::metadata("/dev/kvm")?.gid().to_string();
    let as_user = |options: &[&str], script: &str| -> Result<Finished> {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &USER_ID.to_string(), "--regid", &group, "--clear-groups"]);
        command.arg(program("securectr")).arg("run").args(options);
        command.arg(image("debian")).args(["bash", "-c", script]);
        command.env("HOME", home.path()).env("XDG_RUNTIME_DIR", &runtime).env_remove("XDG_DATA_HOME");
        Started::spawn(world.on_host(&command).current_dir("/"))?.finish(b"")
    };
    // Not by a program that closes its half: Debian 12's passt then says the same again and again.
    let said = as_user(&["-p", "8080:80"], "exec 3<>/dev/tcp/10.77.0.1/5000 && cat <&3")?;
    assert!(said.code == 0 && said.out().starts_with("you are "), "{said:?}");
    let refused = as_user(&["-p", "80:80"], "true")?;
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(refused.err().contains("publish the port 80/tcp: ports below 1024 are root's"), "{refused:?}");
    eventually("nothing is left", || Ok(world.programs()?.is_empty()))
}

#[test]
fn a_killed_securectr_leaves_no_passt() -> Result<()> {
    let world = World::new()?;
    let mut command = securectr();
    command.args(["run", "-i", "--network", "nat", &image("busybox"), "sh", "-c", "echo up; read line"]);
    let mut started = Started::spawn(&mut world.on_host(&command))?;
    started.wait_for_output("up")?;
    ensure!(world.programs()?.iter().any(|name| name.starts_with("passt")), "{:?}", world.programs()?);
    started.signal("KILL")?;
    started.finish(b"")?;
    eventually("nothing is left", || Ok(world.programs()?.is_empty()))
}

#[test]
fn a_container_outlives_its_passt_and_tells_of_the_loss() -> Result<()> {
    let world = World::new()?;
    let user = User::with_box()?;
    succeed(&world, &user, &["run", "-d", "--network", "nat", "--name", "cut", "box", "sleep", "1000"])?;
    assert!(Command::new("pkill").args(["-9", "passt"]).status()?.success());
    eventually("the loss is told", || {
        Ok(user.succeed(&["why", "cut"])?.contains("no network any more: passt has ended"))
    })?;
    assert_eq!(user.succeed(&["exec", "cut", "echo", "alive"])?, "alive");
    Ok(())
}

#[test]
fn datagrams_come_to_a_published_port() -> Result<()> {
    let world = World::new()?;
    let echo = "use IO::Socket::INET; $| = 1; my $s = IO::Socket::INET->new(Proto => 'udp', LocalPort => 53) or die; print \"up\\n\"; \
                while (defined $s->recv(my $m, 99)) { $s->send($m) }";
    let mut command = securectr();
    command.args(["run", "-p", "5353:53/udp", &image("debian"), "perl", "-e", echo]);
    let mut started = Started::spawn(&mut world.on_host(&command))?;
    started.wait_for_output("up")?;
    let answer = world.outside(|| {
        let socket = UdpSocket::bind("10.77.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut answer = [0; 64];
        for _ in 0..30 {
            socket.send_to(b"hello", "10.77.0.2:5353")?;
            if let Ok(len) = socket.recv(&mut answer) {
                return Ok(String::from_utf8_lossy(&answer[..len]).into_owned());
            }
        }
        Ok(String::new())
    })?;
    started.signal("KILL")?;
    started.finish(b"")?;
    assert_eq!(answer, "hello");
    Ok(())
}

#[test]
fn what_is_allowed_is_reached_and_all_else_is_refused_and_told() -> Result<()> {
    let world = World::new()?;
    for port in ["[::]:5000", "[::]:5001"] {
        world.serve(port.parse()?)?;
    }
    let options =
        ["--allow-net", "web.test:5000", "--allow-net", "10.77.0.3:5000", "--allow-net", "loop.test"];
    let script = "exec 2>/dev/null; get web.test 5000; get web.test 5001 || echo no port; get 10.77.0.3 5000; \
                  get other.test 5000 || echo no name; get 10.77.0.3 5001 || echo no port; get fd00:77::3 5000 || echo no address; \
                  get loop.test 6000 || echo no loopback";
    world.serve_on_host("127.0.0.1:6000".parse()?)?;
    let said = run_debian(&world, &options, script)?;
    let shown = said.out().replace("fd00:77::2", "10.77.0.2").replace("::ffff:", "");
    let expected =
        "you are 10.77.0.2\nno port\nyou are 10.77.0.2\nno name\nno port\nno address\nno loopback\n";
    ensure!(shown == expected, "{said:?}");
    for told in
        ["the container may not reach the name other.test", "10.77.0.3:5001/tcp", "[fd00:77::3]:5000/tcp"]
    {
        ensure!(said.err().contains(told), "no {told:?} in {said:?}");
    }
    eventually("nothing is left", || Ok(world.programs()?.is_empty()))
}

#[test]
fn a_walled_container_is_reached_at_its_ports_and_its_denials_are_events() -> Result<()> {
    let world = World::new()?;
    world.serve("10.77.0.1:5000".parse()?)?;
    let user = with_nginx()?;
    let run = ["run", "-d", "-p", "8080:80", "--allow-net", "192.0.2.1", "--name", "walled", "nginx"];
    succeed(&world, &user, &run)?;
    eventually_a_page(&world, "127.0.0.1:8080")?;
    ensure!(world.outside(page("10.77.0.2:8080"))?.contains("a page of nginx"));
    let refused = user.call(&["exec", "walled", "busybox", "nc", "-w", "5", "10.77.0.1", "5000"])?;
    ensure!(refused.code != 0 && refused.out().is_empty(), "{refused:?}");
    let events =
        ["events", "--since", "10m", "--until", "0s", "--filter", "event=network-denied", "--format"];
    eventually("the denial is an event", || {
        let told = user.succeed(
            &[events.as_slice(), &["{{.Actor.Attributes.name}} {{.Actor.Attributes.denied}}"]].concat(),
        )?;
        Ok(told.contains("walled 10.77.0.1:5000/tcp"))
    })?;
    user.succeed(&["rm", "-f", "walled"])?;
    eventually("nothing is left", || Ok(world.programs()?.is_empty()))
}

#[test]
fn ports_are_published_by_nat_alone() -> Result<()> {
    for network in ["none", "/run/netns/x"] {
        let refused = run_in(&["--network", network, "-p", "80:80"], ["true"])?;
        assert!(refused.code == 125 && refused.err().contains("--network nat only"), "{refused:?}");
    }
    Ok(())
}
