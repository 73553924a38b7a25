//! One node of the mesh as a pure state machine.
