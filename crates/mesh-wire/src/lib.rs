//! Node-to-node frames: MessagePack in, link messages out.
