//! A container in the network of a namespace of the host. As root: namespaces are made.

use std::{
    io::{Read, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use securectr_tests::{Finished, Lan, Started, image, run, run_in, securectr};

const MEGABYTES: usize = 20;

fn run_on(lan: &Lan, script: &str) -> Result<Finished> {
    run_in(&["--network", &lan.path().to_string_lossy()], ["sh", "-c", script])
}

#[test]
fn a_container_has_what_its_namespace_has_and_leaves_nothing_there() -> Result<()> {
    let lan = Lan::new()?;
    let before = lan.holdings()?;
    let said = run_on(
        &lan,
        "cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu; ip -o addr show eth0; ip route; ip -6 route; \
         ip neigh show nud permanent",
    )?;
    let lines = [
        "02:88:00:00:00:02\n1400\n",
        "inet 10.88.0.2/24 brd 10.88.0.255",
        "inet6 fd00:88::2/64",
        "default via 198.51.100.1 dev eth0  metric 700",
        "198.51.100.1 dev eth0 scope link",
        "192.0.2.0/24 via 10.88.0.1 dev eth0",
        "10.88.0.0/24 dev eth0 scope link",
        "default via fd00:88::1 dev eth0",
        "198.51.100.1 dev eth0 lladdr 02:88:00:00:00:63",
    ];
    for line in lines {
        ensure!(said.out().contains(line), "no {line:?} in {said:?}");
    }
    assert_eq!(lan.holdings()?, before);
    Ok(())
}

#[test]
fn both_internet_protocols_reach_the_world() -> Result<()> {
    let lan = Lan::new()?;
    let said = run_on(
        &lan,
        "ping -c1 -W20 10.88.0.1 && ping -c1 -W20 192.0.2.1 && ping -c1 -W20 -s 5000 10.88.0.1 && ping -6 -c1 -W20 fd00:88::1",
    )?;
    assert_eq!((said.code, said.out().matches(" 0% packet loss").count()), (0, 4), "{said:?}");
    Ok(())
}

#[test]
fn what_goes_out_comes_back_byte_for_byte() -> Result<()> {
    let lan = Lan::new()?;
    for address in ["10.88.0.1:5000", "[fd00:88::1]:5000"] {
        let listener = lan.listen(address.parse()?)?;
        let echo = thread::spawn(move || -> Result<usize> {
            let (mut stream, _) = listener.accept()?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            stream.write_all(&bytes)?;
            Ok(bytes.len())
        });
        let host = address.trim_end_matches(":5000").trim_matches(['[', ']']);
        let said = run_on(
            &lan,
            &format!(
                "head -c {MEGABYTES}000000 /dev/urandom >/tmp/x; nc {host} 5000 </tmp/x | cmp - /tmp/x && echo same"
            ),
        )?;
        assert_eq!(said.out(), "same\n", "{address}: {said:?}");
        assert_eq!(echo.join().expect("the echo")?, MEGABYTES * 1_000_000);
    }
    Ok(())
}

#[test]
fn an_interface_that_comes_while_the_machine_boots_is_the_containers() -> Result<()> {
    let lan = Lan::empty()?;
    let before = lan.holdings()?;
    let words = ["sh", "-c", "cat /sys/class/net/eth0/address; ping -c1 -W20 10.88.0.1"];
    let mut command = securectr();
    command.args(["run", "--name", "late", "--network"]).arg(lan.path()).arg(image("busybox")).args(words);
    let started = Started::spawn(&mut command)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !Path::new("/run/securectr/late/state.json").exists() {
        ensure!(Instant::now() < deadline, "no machine");
        thread::sleep(Duration::from_millis(1));
    }
    ensure!(lan.holdings()? == before, "there is nothing yet that could be joined");
    lan.lay_cable()?;
    let said = started.finish(b"")?;
    assert!(said.code == 0 && said.out().starts_with("02:88:00:00:00:02\n"), "{said:?}");
    ensure!(!lan.holdings()?.contains("ingress"), "{}", lan.holdings()?);
    Ok(())
}

#[test]
fn a_namespace_serves_one_sandbox_at_a_time() -> Result<()> {
    let lan = Lan::new()?;
    let mut command = securectr();
    command.args(["run", "-i", "--network"]).arg(lan.path()).arg(image("busybox"));
    let mut first =
        Started::spawn(command.args(["sh", "-c", "echo up; read line; ping -c1 -W20 10.88.0.1"]))?;
    first.wait_for_output("up")?;
    let second = run_on(&lan, "true")?;
    assert_eq!(second.code, 125, "{second:?}");
    assert!(second.err().contains("another sandbox uses this network namespace"), "{second:?}");
    assert_eq!(first.finish(b"\n")?.code, 0, "the second has not disturbed the first");
    Ok(())
}

#[test]
fn a_killed_sandbox_does_not_spoil_its_namespace() -> Result<()> {
    let lan = Lan::new()?;
    let before = lan.holdings()?;
    let mut command = securectr();
    command.args(["run", "-i", "--network"]).arg(lan.path()).arg(image("busybox"));
    let mut first = Started::spawn(command.args(["sh", "-c", "echo up; read line"]))?;
    first.wait_for_output("up")?;
    first.signal("KILL")?;
    first.finish(b"")?;
    let second = run_on(&lan, "ping -c1 -W20 10.88.0.1")?;
    assert_eq!(second.code, 0, "{second:?}");
    assert_eq!(lan.holdings()?, before);
    Ok(())
}

#[test]
fn the_hosts_own_network_is_refused() -> Result<()> {
    for path in ["/proc/1/ns/net", "host"] {
        let refused = run_in(&["--network", path], ["true"])?;
        assert_eq!(refused.code, 125, "{path}: {refused:?}");
        assert!(refused.err().contains("host's"), "{path}: {refused:?}");
    }
    let file = run_in(&["--network", "/etc/hostname"], ["true"])?;
    assert!(file.code == 125 && file.err().contains("network namespace"), "{file:?}");
    Ok(())
}

#[test]
fn without_a_network_there_is_only_the_loopback() -> Result<()> {
    let said = run(["ls", "/sys/class/net"])?;
    assert_eq!(said.out(), "lo\n");
    Ok(())
}
