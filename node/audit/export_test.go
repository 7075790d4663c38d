package audit

// MaxWaiting is how many messages wait for a server that is down.
const MaxWaiting = maxWaiting
