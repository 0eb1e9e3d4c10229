-- release.lua is a part of settle.lua: how those who stand in a line go to the stream.
return release
