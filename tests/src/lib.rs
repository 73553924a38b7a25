//! Real-client and real-socket tests of the deskmesh program.
