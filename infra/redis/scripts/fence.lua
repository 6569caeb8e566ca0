-- Cuts every connection to a Redis that a majority of the Sentinels does not name as master, at once: a client never goes on
-- talking to a deposed master. HAProxy itself only decides this for new connections.
local majority, replicas = tonumber(os.getenv("MAJORITY")), tonumber(os.getenv("REPLICAS"))

core.register_task(function()
  while true do
    for i = 0, replicas - 1 do
      local up = 0
      for _, sentinel in pairs(core.backends["names-" .. i].servers) do
        if sentinel:get_stats().status:match("^UP") then up = up + 1 end
      end
      if up < majority then core.backends["redis-" .. i].servers["redis-" .. i]:shut_sess() end
    end
    core.msleep(100)
  end
end)
