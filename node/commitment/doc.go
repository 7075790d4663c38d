// Package commitment is the Storage Commitment Push Model of PS3.4 annex J, both
// ways.
//
// As SCP (Provider) the node says of the images that a peer names whether it has
// them for good: the request is durable before it is answered, and its outcome
// goes to the peer from the job queue, on the association of the request while that
// is open, or else on one of its own, as often as it takes. It says "committed" only
// of an image that the store has on disk with a checksum, of the SOP class named,
// and of whose UID no other bytes lie in quarantine; by configuration the bytes are
// read and compared too.
//
// As SCU (Requester) the node asks a destination to commit to what was sent there,
// and keeps the transaction until its outcome comes, on whatever association, or
// its time is over.
package commitment
