# Reads network_data.json and writes the commands that give `interface` what the document tells for the link whose MAC is
# `mac`. Exit 1: an address is left to DHCP. A JSON document becomes flat first: value["networks.0.ip_address"].

{ text = text $0 }

END {
    flatten()
    for (link = 0; ("links." link ".id") in value; link++)
        if (tolower(value["links." link ".ethernet_mac_address"]) == tolower(mac)) mine = link
    if (mine == "") exit 1
    number = substr(interface, 4) + 0
    if (value["links." mine ".mtu"] ~ /^[0-9]+$/)
        print "ip link set " interface " mtu " value["links." mine ".mtu"]
    for (network = 0; ("networks." network ".id") in value; network++) {
        if (value["networks." network ".link"] != value["links." mine ".id"]) continue
        known++
        type = value["networks." network ".type"]
        if (type == "ipv4") address("networks." network, 4)
        if (type == "ipv6" || type == "ipv6_dhcpv6-stateful") address("networks." network, 6)
        if (type == "ipv4_dhcp") dhcp = 1
    }
    exit dhcp || !known
}

# Routes have the interface's number as metric, so that the first interface's win; the kernel takes IPv6's 0 for 1024.
function address(at, family,    ip, to, metric, route, via, server) {
    ip = safe(value[at ".ip_address"])
    print "ip -" family " addr replace " ip "/" prefix(value[at ".netmask"]) " dev " interface
    metric = family == 4 ? " onlink metric " number : " metric " number + 1
    for (route = 0; (at ".routes." route ".gateway") in value; route++) {
        via = safe(value[at ".routes." route ".gateway"])
        to = safe(value[at ".routes." route ".network"]) "/" prefix(value[at ".routes." route ".netmask"])
        print "ip -" family " route replace " to " via " via " dev " interface metric
        if (number && to ~ /\/0$/) print "reply_by " family " " interface " " number " " ip " " via
    }
    print "say static " interface " " ip "/" prefix(value[at ".netmask"])
    for (server = 0; (at ".services." server ".address") in value; server++)
        print "echo nameserver " safe(value[at ".services." server ".address"]) " | name_servers " interface " add"
}

# An address, or nothing: the document's text becomes commands.
function safe(text) { return text ~ /^[0-9a-fA-F.:]+$/ ? text : "" }

# The bits of a netmask of either family.
function prefix(netmask,    part, count, bits, n) {
    if (netmask ~ /:/) {
        for (n = 1; n <= length(netmask); n++)
            bits += index("8cef", tolower(substr(netmask, n, 1)))
        return bits + 0
    }
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
