package broker

import (
	"math/bits"
	"strconv"
	"strings"
	"sync"

	"github.com/coatcheck/coatcheck/internal/correlation"
)

// In a Redis Cluster the masters have the slots in ranges, so partitions are even among
// any number of them only where their slots are evenly spaced. The slot is that of the
// tag: partition 0 has the tag 0, which whoever writes a plain worker may rely on, and
// each other one its number with the first suffix that puts it near where it should be.
// Half way round for the second, a quarter for the third and so on, so that 2, 4, 8 …
// partitions are spaced evenly. The tags are in cc:config, and what is there counts:
// those of a deployment that was there before are plain numbers.

const clusterSlots = 16384

var suffixes sync.Map // number of a partition → its suffix

// spread is a partition that was added with a suffix.
func spread(number int) partition {
	if number == 0 {
		return partition{}
	}
	if s, ok := suffixes.Load(number); ok {
		return partition{number, s.(int)}
	}
	const step = clusterSlots / correlation.MaxPartitions
	turned := int(bits.Reverse16(uint16(number))) >> 4 // MaxPartitions has 12 bits
	wanted := slotOf("0") + turned*step
	spacing := clusterSlots >> bits.Len(uint(number)) // once there are as many as make all even
	p, before := partition{number, 1}, crc16(0, strconv.Itoa(number)+".")
	for near := max(spacing/64, 2); ; p.suffix++ {
		off := (int(crc16(before, strconv.Itoa(p.suffix))) - wanted + 4*clusterSlots) % clusterSlots
		if min(off, clusterSlots-off) <= near {
			suffixes.Store(number, p.suffix)
			return p
		}
	}
}

// slotOf is the slot of a tag: CRC-16/XMODEM, as the specification of Redis Cluster says.
func slotOf(tag string) int { return int(crc16(0, tag)) % clusterSlots }

func crc16(crc uint16, text string) uint16 {
	for _, b := range []byte(text) {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

// parseTags reads the tags of a deployment.
func parseTags(text string) (all []partition) {
	for tag := range strings.SplitSeq(text, ",") {
		number, suffix, _ := strings.Cut(tag, ".")
		var p partition
		p.number, _ = strconv.Atoi(number) // nobody but configure.lua writes them
		p.suffix, _ = strconv.Atoi(suffix)
		all = append(all, p)
	}
	return all
}

// tagsFor is what n partitions are to have as tags: those that are known as they are.
func tagsFor(n int, known []partition) string {
	tags := make([]string, n)
	for i := range n {
		p := spread(i)
		if i < len(known) {
			p = known[i]
		}
		tags[i] = p.tag()
	}
	return strings.Join(tags, ",")
}

// parts are all partitions of the deployment.
func (b *Broker) parts() []partition { return b.shared.Load().parts }

// part is one of them. One that this process has not heard of yet was added since.
func (b *Broker) part(number int) partition {
	if all := b.parts(); number < len(all) {
		return all[number]
	}
	return spread(number)
}

func (b *Broker) partitionOf(id correlation.ID) partition { return b.part(id.Partition()) }
