-- Publish messages of which some wait for an ETA: args = {{queue, message, step, eta, tag}, …}.
for _, p in ipairs(args) do publish(p[1], p[2], p[3], p[4], p[5]) end
return #args
