//! A virtual Ethernet switch in user space: learning, 802.1Q ports, partitions, capture.
