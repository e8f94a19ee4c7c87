"""The lab: a whole cluster in one process tree on one real kernel, for people who try the project and for its tests.

    engine/       a kernel with IPVS anywhere: native, User-Mode Linux, QEMU
    guest         what runs inside: builds the lab, runs the command, passes its streams on
    topology      the plan: names, addresses, subnets      fabric     the plan made real
    zygote parts  processes forked from a warm one         cluster    starts, stops and waits for them
    control       commands inside reach the cluster        readiness  when all is in sync
    api/          the API server      controllers/ kubelet/   what a cluster needs besides      router   BIRD outside
    demo/         the main job, shown step by step

Everything but the engines runs as root of the guest, in network namespaces; nothing of it runs in a real cluster.
"""
