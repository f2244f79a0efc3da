//! Measures container runtimes side by side.
