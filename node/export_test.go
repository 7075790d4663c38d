package node

// MaxHeaderValue is the longest header value that is indexed.
var MaxHeaderValue = headerLimits.MaxElementBytes
