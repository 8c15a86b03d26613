package userhash

// Nobody is the salt and hash that Idle computes with.
const Nobody = nobody
