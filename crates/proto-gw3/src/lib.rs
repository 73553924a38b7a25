//! The GW3 protocol of io.Connect clients: JSON text in, commands out.
