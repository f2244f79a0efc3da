//! A container's output on its way: it is counted, goes where it belongs, and to those who look on.

use std::{
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::budget::Meter;
use crate::streams::{Ends, Sink};

/// Who takes nothing for so long looks on no more: a container does not wait for ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// Those who look on at a stream; none can when it has ended.
type Seats = Arc<Mutex<Option<Vec<UnixStream>>>>;

fn locked(seats: &Seats) -> MutexGuard<'_, Option<Vec<UnixStream>>> {
    seats.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those who look on at a container.
#[derive(Clone)]
pub(crate) struct Audience {
    stdout: Seats,
    stderr: Seats,
}

impl Audience {
    /// Of a container that says nothing.
    pub(crate) fn nobody() -> Self {
        Self { stdout: Seats::default(), stderr: Seats::default() }
    }

    /// Lets others look on at what goes to these ends.
    pub(super) fn beside(ends: Ends, meter: &Arc<Meter>) -> (Self, Ends) {
        let audience = Self { stdout: seats(), stderr: seats() };
        let passage = |seats: &Seats, keeper| -> Sink {
            Box::new(Passage { meter: Arc::clone(meter), keeper, seats: Arc::clone(seats) })
        };
        let stdout = passage(&audience.stdout, ends.stdout);
        let stderr = ends.stderr.map(|stderr| passage(&audience.stderr, stderr));
        (audience, Ends { stdout, stderr, ..ends })
    }

    /// Where all is to be read that comes from now on.
    pub(super) fn stdout(&self) -> io::Result<OwnedFd> {
        sit_down(&self.stdout)
    }

    pub(super) fn stderr(&self) -> io::Result<OwnedFd> {
        sit_down(&self.stderr)
    }
}

fn seats() -> Seats {
    Arc::new(Mutex::new(Some(Vec::new())))
}

fn sit_down(seats: &Seats) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_write_timeout(Some(PATIENCE))?;
    if let Some(seats) = &mut *locked(seats) {
        seats.push(ours);
    }
    Ok(theirs.into())
}

struct Passage {
    meter: Arc<Meter>,
    keeper: Sink,
    seats: Seats,
}

impl Write for Passage {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let within = bytes.get(..self.meter.take(bytes.len())).unwrap_or_default();
        self.keeper.write_all(within)?;
        if let Some(seats) = &mut *locked(&self.seats) {
            seats.retain_mut(|seat| seat.write_all(within).is_ok());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.keeper.flush()
    }
}

impl Drop for Passage {
    /// Those who look on see its end.
    fn drop(&mut self) {
        locked(&self.seats).take();
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read};

    use super::*;
    use crate::container::Budget;

    fn ends() -> Ends {
        let nothing = File::open("/dev/null").unwrap();
        Ends { stdin: Box::new(nothing), lasts: false, stdout: Box::new(io::sink()), stderr: None }
    }

    #[test]
    fn who_looks_on_sees_what_comes_from_then_on_up_to_the_end() {
        let (audience, mut ends) = Audience::beside(ends(), &Arc::new(Budget::default().meter()));
        ends.stdout.write_all(b"before ").unwrap();
        let (mut first, mut second) =
            (File::from(audience.stdout().unwrap()), File::from(audience.stdout().unwrap()));
        ends.stdout.write_all(b"after").unwrap();
        drop(ends);
        let late = audience.stdout().unwrap();
        for (file, expected) in [(&mut first, "after"), (&mut second, "after"), (&mut File::from(late), "")] {
            let mut read = String::new();
            file.read_to_string(&mut read).unwrap();
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn who_goes_is_forgotten_and_nothing_goes_beyond_the_budget() {
        let meter = Arc::new(Budget { output_bytes: Some(6), ..Budget::default() }.meter());
        let (audience, mut ends) = Audience::beside(ends(), &meter);
        drop(audience.stdout().unwrap());
        let mut stays = File::from(audience.stdout().unwrap());
        ends.stdout.write_all(b"1234").unwrap();
        ends.stdout.write_all(b"5678").unwrap();
        drop(ends);
        let mut read = String::new();
        stays.read_to_string(&mut read).unwrap();
        assert_eq!(read, "123456");
    }
}
