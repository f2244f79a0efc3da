//! What was done on the host for a sandbox, to be undone in reverse.

/// Steps that run, last first, when the stack is dropped: a start that fails half-way and a sandbox that ends undo alike.
#[derive(Default)]
pub(crate) struct Undo(Vec<Box<dyn FnOnce() + Send + Sync>>);

impl Undo {
    pub(crate) fn push(&mut self, step: impl FnOnce() + Send + Sync + 'static) {
        self.0.push(Box::new(step));
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        while let Some(step) = self.0.pop() {
            step();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn steps_are_undone_last_first() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for step in 1..=3 {
            let seen = Arc::clone(&seen);
            undo.push(move || seen.lock().unwrap().push(step));
        }
        drop(undo);
        assert_eq!(*seen.lock().unwrap(), [3, 2, 1]);
    }
}
