//! The `deskmesh` program.
fn main() {}
