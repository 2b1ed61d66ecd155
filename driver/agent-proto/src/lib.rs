//! The protocol between the driver and the agent in a guest: frames and messages.
