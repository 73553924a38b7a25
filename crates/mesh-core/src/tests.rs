//! Tests of a whole node, and of several joined by links made of queues.
