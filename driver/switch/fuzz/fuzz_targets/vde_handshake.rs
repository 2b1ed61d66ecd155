//! Any bytes as a VDE client's request, cut anywhere: no panic, what was understood stays within its bounds, and what is
//! refused at once stays refused.

#![no_main]

use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use switch::VdeRequest;

fuzz_target!(|bytes: &[u8]| {
    // The magic number, the version and the family of addresses would not be found soon.
    let mut begun = [0xfeed_face_u32, 3].map(u32::to_ne_bytes).concat();
    begun.extend(bytes.get(..4).unwrap_or_default());
    begun.extend(1_u16.to_ne_bytes());
    begun.extend(bytes.get(4..).unwrap_or_default());
    for request in [bytes, &begun] {
        let whole = VdeRequest::parse(request);
        let mut refused = None;
        for end in 0..request.len().min(300) {
            match VdeRequest::parse(&request[..end]) {
                Err(why) => {
                    refused.get_or_insert(why);
                }
                Ok(Some(_)) => assert_eq!(refused, None),
                Ok(None) => assert!(refused.is_none() && end < 122),
            }
        }
        if let Some(why) = refused {
            assert_eq!(whole, Err(why));
        }
        if let Ok(Some(request)) = whole {
            let path = request.socket.as_os_str().as_bytes();
            assert!((1..=108).contains(&path.len()) && !path.contains(&0));
            assert!(request.description.len() <= 3 * 128);
            assert!(!request.description.chars().any(char::is_control));
            assert_ne!(request.number, Some(0));
        }
    }
});
