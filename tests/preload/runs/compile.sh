# A file of some thousand lines: the compiler proper and the assembler run as children.
awk 'BEGIN {
    print "struct node { struct node *next; long value[7]; };"
    for (i = 0; i < 400; i++) {
        print "long walk" i "(struct node *node, long start) {"
        print "    long sum = start * " i ", best = -1;"
        print "    for (; node; node = node->next)"
        print "        for (int k = 0; k < 7; k++) {"
        print "            if (node->value[k] > best) best = node->value[k] ^ " i ";"
        print "            sum += node->value[k] * k + (sum >> " i % 13 + 1 ");"
        print "        }"
        print "    return sum % " i + 7 " + best;"
        print "}"
    }
}' > generated.c
gcc -O2 -Wall -c generated.c -o generated.o
cksum generated.o
