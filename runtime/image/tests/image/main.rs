//! The package from outside: images in, file system images out.

#[cfg(test)]
mod formats;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod library;
#[cfg(test)]
mod store;
#[cfg(test)]
mod support;
