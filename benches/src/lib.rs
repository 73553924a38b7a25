//! Load generator, floors and reference servers for the bench table.
