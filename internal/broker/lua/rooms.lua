-- rooms.lua is a part of succeed.lua: how those who stand in a line get the room that was made.
return make_rooms
