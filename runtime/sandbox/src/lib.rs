//! The one place that knows what a sandbox and a container are.
