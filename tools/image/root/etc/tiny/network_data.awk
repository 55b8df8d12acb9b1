# Reads network_data.json and writes the commands that give `interface` the static addresses of the link whose MAC is
# `mac`. Exit 1 when that link has none. A JSON document becomes flat first: value["networks.0.ip_address"].

{ text = text $0 }

END {
    flatten()
    for (link = 0; ("links." link ".id") in value; link++)
        if (value["links." link ".ethernet_mac_address"] == mac) mine = link
    if (mine == "") exit 1
    if (value["links." mine ".mtu"] ~ /^[0-9]+$/)
        print "ip link set " interface " mtu " value["links." mine ".mtu"]
    for (network = 0; ("networks." network ".id") in value; network++)
        if (value["networks." network ".type"] == "ipv4" && value["networks." network ".link"] == value["links." mine ".id"])
            found += address("networks." network)
    exit !found
}

function address(at,    route, via, server) {
    print "ip -4 addr replace " value[at ".ip_address"] "/" prefix(value[at ".netmask"]) " dev " interface
    for (route = 0; (via = value[at ".routes." route ".gateway"]) != ""; route++)
        print "ip route replace " value[at ".routes." route ".network"] "/" prefix(value[at ".routes." route ".netmask"]) \
            " via " via " dev " interface " onlink"
    for (server = 0; (at ".services." server ".address") in value; server++)
        print "echo nameserver " value[at ".services." server ".address"] " >>/etc/resolv.conf"
    return 1
}

function prefix(netmask,    part, count, bits, n) {
    count = split(netmask, part, ".")
    for (n = 1; n <= count; n++)
        while (part[n] > 0) { bits += part[n] % 2; part[n] = int(part[n] / 2) }
    return bits + 0
}

# kind[d] is "{" or "[", key[d] the key or index that depth d is at.
function flatten(    depth, token, is_key) {
    while (match(text, /"([^"\\]|\\.)*"|[][{}:,]|[^][{}:," \t]+/)) {
        token = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        if (token == "{" || token == "[") {
            kind[++depth] = token
            key[depth] = 0
            is_key = token == "{"
        } else if (token == "}" || token == "]") {
            depth--
            is_key = 0
        } else if (token == ",") {
            if (kind[depth] == "[") key[depth]++
            is_key = kind[depth] == "{"
        } else if (token == ":") {
            is_key = 0
        } else {
            if (substr(token, 1, 1) == "\"") token = substr(token, 2, length(token) - 2)
            if (is_key) key[depth] = token
            else value[path(depth)] = token
        }
    }
}

function path(depth,    joined, n) {
    joined = key[1]
    for (n = 2; n <= depth; n++) joined = joined "." key[n]
    return joined
}
