package steward

// Part is part.
var Part = part
