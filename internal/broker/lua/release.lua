-- release.lua is a part of succeed.lua: how those who stand in a line go to the stream.
return release
