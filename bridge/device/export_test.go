package device

// Read gives the fuzz test the parser of answers.
var Read = read
